"""What every command shares: who is asked, in whose name, and how the answer is printed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from control.cli import places
from control.cli.output import Output
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from control.client import ControlPlane, Gateway, GatewayAdmin


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every command takes."""

    data: Path = places.DEFAULT_DATA
    control: str | None = None
    gateway: str | None = None
    token: str | None = None
    token_file: Path | None = None
    json: bool = False
    verbose: bool = False


class Session:
    """One run of a command: opens what it asks for, and closes that at the end."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = Output(options.json, options.verbose)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def control(self) -> ControlPlane:
        """The control plane."""
        from control.client import ControlPlane
        from control.connection import Unreachable

        address = self.options.control
        if address is None:
            place = places.control_place(self.options.data)
            if place is None:
                raise Unreachable(
                    "UNAVAILABLE",
                    "NOT_RUNNING",
                    f"no control plane runs in {self.options.data}; start one with `interlock up{self.data_flag}`, "
                    "or name another by --data DIRECTORY or --control HOST:PORT",
                )
            address = place.address
        self.out.detail(f"control plane: {address}")
        return self._open.enter_context(ControlPlane(address, self._token()))

    @cached_property
    def gateway(self) -> Gateway:
        """The gateway's serving port."""
        from control.client import Gateway

        address = self.options.gateway or self.gateway_place.address
        self.out.detail(f"gateway: {address}")
        return self._open.enter_context(Gateway(address, self._given_token()))

    @cached_property
    def gateway_place(self) -> places.GatewayPlace:
        """Where the gateway of the data directory is."""
        from control.connection import Unreachable

        place = places.gateway_place(self.options.data)
        if place is None:
            raise Unreachable(
                "UNAVAILABLE",
                "NOT_RUNNING",
                f"no gateway runs in {self.options.data}; start one with `interlock up{self.data_flag}`, "
                "or name another by --data DIRECTORY or --gateway HOST:PORT",
            )
        return place

    def gateway_admin(self, address: str | None = None) -> GatewayAdmin:
        """The gateway's admin port: that of the data directory, or another with the given token."""
        from control.client import GatewayAdmin

        path = places.gateway_token_path(self.options.data)
        token = None if address else places.read_token(path)
        if token:
            self.out.detail(f"gateway's token: {path}")
        address = address or self.gateway_place.admin_address
        self.out.detail(f"gateway's admin port: {address}")
        return self._open.enter_context(GatewayAdmin(address, token or self._token()))

    @property
    def data_flag(self) -> str:
        """What a suggested command needs to find the same installation: nothing where it would anyway."""
        data = self.options.data
        known = data == places.DEFAULT_DATA or os.environ.get("INTERLOCK_DATA") == str(data)
        return "" if known else f" --data {data}"

    def _given_token(self) -> str | None:
        options = self.options
        if options.token:
            return options.token
        if options.token_file is None:
            return None
        token = places.read_token(options.token_file)
        if token is None:
            raise Fault(Reason.UNAUTHENTICATED, f"--token-file {options.token_file} holds no token that can be read")
        return token

    def _token(self) -> str:
        if token := self._given_token():
            return token
        path = places.operator_token_path(self.options.data)
        token = places.read_token(path)
        if token is None:
            raise Fault(
                Reason.UNAUTHENTICATED,
                "no token: give --token TOKEN, --token-file FILE or the environment variable INTERLOCK_TOKEN; "
                "`interlock token create` makes one",
            )
        self.out.detail(f"token: the operator's, from {path}")
        return token
