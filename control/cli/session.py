"""What every command shares: who is asked, in whose name, and how the answer is printed."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from control import places
from control.cli.output import Output
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from control.services import ControlPlane, Gateway, GatewayAdmin


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every command takes; None where the flag is not given."""

    data: Path | None = None
    control: str | None = None
    gateway: str | None = None
    token: str | None = None
    token_file: Path | None = None
    json: bool = False
    verbose: bool = False


class Session:
    """One run of a command: opens what it asks for, and closes that at the end.

    Flags are over the environment: who names a directory, or a token's file, means it.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = Output(options.json, options.verbose)
        self.data = options.data or Path(os.environ.get("INTERLOCK_DATA") or places.DEFAULT_DATA)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def control(self) -> ControlPlane:
        """The control plane."""
        from control.connection import is_loopback
        from control.services import ControlPlane

        address = self._named(self.options.control, "INTERLOCK_CONTROL")
        if address is None:
            place = places.control_place(self.data)
            if place is None:
                raise self._not_running("control plane", "--control")
            address = place.address
        self.out.detail(f"control plane: {address}")
        return self._open.enter_context(ControlPlane(address, self._token(local=is_loopback(address))))

    @cached_property
    def gateway(self) -> Gateway:
        """The gateway's serving port."""
        from control.services import Gateway

        address = self._named(self.options.gateway, "INTERLOCK_GATEWAY") or self._gateway_place().address
        self.out.detail(f"gateway: {address}")
        return self._open.enter_context(Gateway(address, self._given_token()))

    def gateway_admin(self, address: str | None = None) -> GatewayAdmin:
        """The gateway's admin port: that of the data directory, or another with the given token."""
        from control.services import GatewayAdmin

        path = places.gateway_token_path(self.data)
        token = None if address else places.read_token(path)
        if token:
            self.out.detail(f"gateway's token: {path}")
        address = address or self._gateway_place().admin_address
        self.out.detail(f"gateway's admin port: {address}")
        return self._open.enter_context(GatewayAdmin(address, token or self._token(local=False)))

    @property
    def same_flags(self) -> str:
        """What a suggested command needs to find the same installation: nothing where it would anyway."""
        given = (("--data", self.options.data), ("--control", self.options.control))
        return "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in given if value is not None)

    def _named(self, flag: str | None, variable: str) -> str | None:
        """An address that was named: by its flag, or by its variable unless a flag names a directory."""
        return flag or (None if self.options.data else os.environ.get(variable) or None)

    def _gateway_place(self) -> places.GatewayPlace:
        place = places.gateway_place(self.data)
        if place is None:
            raise self._not_running("gateway", "--gateway")
        return place

    def _not_running(self, service: str, flag: str) -> Exception:
        from control.connection import Unreachable

        return Unreachable(
            "UNAVAILABLE",
            "NOT_RUNNING",
            f"no {service} runs in {self.data}; start one with `interlock up{self.same_flags}`, "
            f"or name another by --data DIRECTORY or {flag} HOST:PORT",
        )

    def _given_token(self) -> str | None:
        path = self.options.token_file
        if self.options.token or path is None:
            return self.options.token or os.environ.get("INTERLOCK_TOKEN") or None
        token = places.read_token(path)
        if token is None:
            raise Fault(Reason.UNAUTHENTICATED, f"--token-file {path} holds no token that can be read")
        return token

    def _token(self, *, local: bool) -> str:
        """The given token; for a server of this host, otherwise the operator's that lies here."""
        if token := self._given_token():
            return token
        path = places.operator_token_path(self.data)
        token = places.read_token(path) if local else None
        if token is None:
            raise Fault(
                Reason.UNAUTHENTICATED,
                "no token: give --token TOKEN, --token-file FILE or the environment variable INTERLOCK_TOKEN; "
                "`interlock token create` makes one",
            )
        self.out.detail(f"token: the operator's, from {path}")
        return token
