"""`interlock up [MODEL.onnx]`: a control plane and a gateway on this host, in the foreground."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from control import places
from control.cli import config as settings
from control.cli.command import command
from control.cli.extras import needs_control
from control.cli.hints import suggest
from control.cli.output import facts, text
from control.cli.people import People, find_people
from control.cli.problem import Problem
from control.cli.processes import Service, Stopped, Watch
from control.cli.session import Session
from control.cli.trial import OnTrial, prepare, put_on_trial
from control.cli.trial import calls as trial_calls

if TYPE_CHECKING:
    from rich.console import RenderableType

START_S: Final = 60.0
"""Seconds that a service gets to become ready: many models may have to be loaded."""


CALLS: Final = {
    "From a shell:": "shell",
    "In Python, by our stubs:": "python",
    "In Python, by tritonclient (its [grpc] extra needs an environment of its own):": "tritonclient",
    "By reflection:": "grpcurl",
}
"""What stands above each call, and its key."""


class Up(NamedTuple):
    """What runs, and whom it can be tried with."""

    control: places.ControlPlace
    gateway: places.GatewayPlace
    people: People | None
    trial: OnTrial | None


class Ports(StrEnum):
    """Which ports the services take."""

    CONFIGURED = "configured"
    AUTO = "auto"


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "up")(up)


def up(
    session: Session,
    onnx: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL.onnx]",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
            help="Serve this model at once, on trial: without a document or an approval, marked so in every reply.",
        ),
    ] = None,
    *,
    name: Annotated[str, typer.Option(help="With MODEL.onnx: the model's name; otherwise the file's.")] = "",
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
    candidate = prepare(onnx, name) if onnx else None
    watch = Watch()
    session.out.note(f"Starting a control plane and a gateway in {data} ...")
    with watch.signals(), _announced_end(session), ExitStack() as services:
        trial = ["--allow-unapproved=true"] if candidate else []
        control = services.enter_context(
            watch.add(_start(session, "control", [*_port_flags("control", ports), *trial]))
        )
        control_place = watch.until(lambda: _control_ready(data, control), "the control plane", START_S)
        flags = [
            *_port_flags("gateway", ports),
            f"--control={control_place.address}",
            f"--token-file={data / 'control' / 'gateway.token'}",
            *([] if workers is None else [f"--workers={workers}"]),
        ]
        gateway = services.enter_context(watch.add(_start(session, "gateway", flags)))
        gateway_place = watch.until(lambda: _gateway_ready(data, gateway), "the gateway", START_S)
        people = _people(data, control_place.address, needed=candidate is not None)
        found = None
        if candidate and people:
            session.out.note(f"Registering {candidate.onnx.name} and putting it on trial ...")
            for change in candidate.rehearsal.changes:
                session.out.note(f"Rewritten: {change}.")
            found = put_on_trial(candidate, data, control_place.address, people, gateway_place.address)
        _announce(session, Up(control_place, gateway_place, people, found))
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


def _people(data: Path, address: str, needed: bool) -> People | None:
    """Two people to try four eyes with; none where the operator's token is no longer good, unless they are needed."""
    from control.connection import CallFailed
    from control.services import ControlPlane

    with ControlPlane(address, places.read_token(places.operator_token_path(data))) as operator:
        try:
            return find_people(data, operator, needed)
        except CallFailed:
            if needed:
                raise
            return None


def _announce(session: Session, found: Up) -> None:
    from control.connection import CallFailed

    control, gateway, people, trial = found
    token_path = places.operator_token_path(session.data)
    document: dict[str, object] = {
        "control": control.address,
        "gateway": gateway.address,
        "gateway_admin": gateway.admin_address,
        "gateway_metrics": gateway.metrics_address,
        "operator_token_file": str(token_path),
        "pid": os.getpid(),
    }
    rows: list[tuple[str, object]] = [
        ("scoring", gateway.address),
        ("control plane", control.address),
        ("gateway's admin", gateway.admin_address),
        ("metrics", f"http://{gateway.metrics_address}/metrics"),
        ("operator token", token_path),
    ]
    if people:
        document |= {"submitter_token_file": str(people.submitter), "approver_token_file": str(people.approver)}
        rows += [("submitter token", people.submitter), ("approver token", people.approver)]
    calls = trial_calls(trial, session.same_flags) if trial else {}
    if trial:
        document |= {"model": trial.model, "version": trial.version, "approved": trial.approved, "calls": calls}
    session.out.result(
        document, text("Interlock is up. Ctrl-C stops it.", "bold green"), facts(rows), *_shown(found, calls)
    )
    if people:
        session.out.note(_what_next(session, people, trial))
    if trial is None:
        with suppress(CallFailed):  # a hint is worth no failure, as where INTERLOCK_TOKEN is of another installation
            suggest(session, "Next, in another shell")


def _shown(found: Up, calls: Mapping[str, str]) -> Iterator[RenderableType]:
    """How to call the model, for people to paste."""
    if found.trial is None:
        return
    name = f"{found.trial.model}/{found.trial.version}"
    if found.trial.approved:
        yield text(f"\n{name} answers, approved.", "bold green")
    else:
        yield text(f"\n{name} answers on trial: nobody approved it, and every reply says so.", "bold yellow")
    for title, key in CALLS.items():
        yield text(f"\n{title}", "bold")
        yield calls[key].rstrip()


def _what_next(session: Session, people: People, trial: OnTrial | None) -> str:
    """How one person can try that two are needed, and how a trial goes on."""
    flags = session.same_flags
    version = f"{trial.model}/{trial.version}" if trial else "MODEL/1"
    decide = [
        f"interlock approval approve {version} --token-file {people.approver}{flags}",
        f"interlock model promote {version} --token-file {people.approver}{flags}",
    ]
    if trial is None:
        files = "model.yaml --onnx MODEL.onnx --golden GOLDEN.csv"
        head = "To try four eyes alone: the submitter registers a version, and only the approver can decide on it:"
        return _listed(head, [f"interlock model register {files} --token-file {people.submitter}{flags}", *decide])
    again = "After a change of the file: Ctrl-C and the same command."
    if trial.approved:
        return f"\n{again}"
    drafted = session.data / "trial" / trial.model / "model.yaml"
    head = f"{again} Its drafted document is {drafted}. To see how an approval goes, with the other person's token:"
    return _listed(head, decide)


def _listed(head: str, commands: Sequence[str]) -> str:
    return "\n".join(["", head, *(f"  {line}" for line in commands)])


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
        hint = "; what it said stands above. Where a port is taken, `--ports auto` takes free ones"
        raise Problem(problem.reason, problem.message + hint, problem.exit_code) from None
