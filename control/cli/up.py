"""`interlock up`: a control plane and a gateway on this host, in the foreground."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from control.cli import config as settings
from control.cli import places
from control.cli.command import command
from control.cli.extras import needs_control
from control.cli.hints import suggest
from control.cli.output import facts, text
from control.cli.problem import Problem
from control.cli.processes import Service, Stopped, Watch
from control.cli.session import Session

START_S: Final = 60.0
"""Seconds that a service gets to become ready: many models may have to be loaded."""


class Ports(StrEnum):
    """Which ports the services take."""

    CONFIGURED = "configured"
    AUTO = "auto"


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "up")(up)


def up(
    session: Session,
    ports: Annotated[
        Ports, typer.Option(help="The configured ports (7400, and 7500 to 7502), or any that are free.")
    ] = Ports.CONFIGURED,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Worker processes of the gateway; 0 is one per core.")
    ] = None,
) -> None:
    """Starts a control plane and a gateway on this host, in the foreground; Ctrl-C drains and stops both."""
    needs_control("`interlock up`")
    data = session.data
    watch = Watch()
    session.out.note(f"Starting a control plane and a gateway in {data} ...")
    with watch.signals(), _announced_end(session), ExitStack() as services:
        control = services.enter_context(watch.add(_start(session, "control", _port_flags("control", ports))))
        control_place = watch.until(lambda: _control_ready(data, control), "the control plane", START_S)
        flags = [
            *_port_flags("gateway", ports),
            f"--control={control_place.address}",
            f"--token-file={data / 'control' / 'gateway.token'}",
            *([] if workers is None else [f"--workers={workers}"]),
        ]
        gateway = services.enter_context(watch.add(_start(session, "gateway", flags)))
        gateway_place = watch.until(lambda: _gateway_ready(data, gateway), "the gateway", START_S)
        _announce(session, control_place, gateway_place)
        watch.forever()


def _start(session: Session, service: str, flags: list[str]) -> Service:
    """Starts a service; unless told otherwise it writes only what somebody should look at."""
    quiet = not session.options.verbose and not _is_configured(service, "log_level")
    level = ["--log-level=warning"] if quiet else []
    return Service(service, [f"--data={session.data / service}", *flags, *level])


def _port_flags(service: str, ports: Ports) -> list[str]:
    if ports is Ports.CONFIGURED:
        return []
    keys = {"control": ("address",), "gateway": ("address", "admin-address", "metrics-address")}[service]
    return [f"--{key}=127.0.0.1:0" for key in keys]


def _is_configured(service: str, key: str) -> bool:
    """Whether the file or the environment says what a setting is."""
    return any(s.key == key and s.source != "default" for s in settings.settings(settings.Service(service)))


def _control_ready(data: Path, service: Service) -> places.ControlPlace | None:
    """Where it listens: it says so once it does. No call is made yet, for gRPC must not run where a process forks."""
    place = places.control_place(data)
    return place if place is not None and place.pid == service.pid else None


def _gateway_ready(data: Path, service: Service) -> places.GatewayPlace | None:
    place = places.gateway_place(data)
    return place if place is not None and place.pid == service.pid and _serving(place.admin_address) else None


def _serving(address: str) -> bool:
    """Whether the health service there says so."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)  # type: ignore[attr-defined]  # set at run time
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _announce(session: Session, control: places.ControlPlace, gateway: places.GatewayPlace) -> None:
    from control.connection import CallFailed

    token_path = places.operator_token_path(session.data)
    document = {
        "control": control.address,
        "gateway": gateway.address,
        "gateway_admin": gateway.admin_address,
        "gateway_metrics": gateway.metrics_address,
        "operator_token_file": str(token_path),
        "pid": os.getpid(),
    }
    rows = (
        ("scoring", gateway.address),
        ("control plane", control.address),
        ("gateway's admin", gateway.admin_address),
        ("metrics", f"http://{gateway.metrics_address}/metrics"),
        ("operator token", token_path),
    )
    session.out.result(document, text("Interlock is up. Ctrl-C stops it.", "bold green"), facts(rows))
    with suppress(CallFailed):  # a hint is worth no failure, as where INTERLOCK_TOKEN is of another installation
        suggest(session, "Next, in another shell")


@contextmanager
def _announced_end(session: Session) -> Iterator[None]:
    """Stopping is no failure; a service that ends by itself is one, whose cause it wrote itself."""
    try:
        yield
    except Stopped:
        session.out.note("Both services have drained and stopped.")
    except Problem as problem:
        if problem.reason != "SERVICE_ENDED":
            raise
        hint = "; it said why above. Where a port is taken, `--ports auto` takes free ones"
        raise Problem(problem.reason, problem.message + hint, problem.exit_code) from None
