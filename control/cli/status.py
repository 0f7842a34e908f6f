"""`interlock status`: who answers, since when, by whose leave, and whether every gateway confirms it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from control import places
from control.cli.command import command
from control.cli.hints import suggest
from control.cli.output import moment, table, text
from control.cli.session import Session
from gateway.contract.alerts import Alert, AlertText, alert, at, identifier

if TYPE_CHECKING:
    from rich.console import RenderableType

    from control.connection import Unreachable
    from control.v1 import rollout_pb2
    from gateway.v1 import admin_pb2


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "status")(status)


def status(
    session: Session, model: Annotated[str, typer.Argument(help="Only this model.", show_default=False)] = ""
) -> None:
    """Says who answers for each model and which gateways confirm it; exit code 1 where something is wrong."""
    from control.connection import Unreachable

    try:
        found = session.control.status(model)
    except Unreachable as failed:
        _alone(session, failed)
        return
    wrong = problems(found)
    parts: list[RenderableType] = [_models(found), text(""), _gateways(found)]
    parts += [text(problem, "red") for problem in wrong]
    parts += explained(wrong)
    if not wrong and found.models:
        parts.append(text("All is well.", "green"))
    session.out.result({"healthy": not wrong, "problems": wrong, "status": found}, *parts)
    suggest(session, "Next", model)
    if wrong:
        raise typer.Exit(1)


def _alone(session: Session, failed: Unreachable) -> None:
    """What this host's gateway serves while the control plane is away; raises what failed where there is none."""
    if session.options.control is not None or places.gateway_place(session.data) is None:
        raise failed
    found = session.gateway_admin().status()
    problem = alert(Alert.CONTROL_PLANE_AWAY, f"{failed.message}; the gateway goes on with what it has")
    rows = (
        (worker.index, "ready" if worker.ready else "not ready", worker.revision, _loaded(worker.versions))
        for worker in found.workers
    )
    table_of_workers = table(("worker", "", "revision", "serves"), rows)
    document = {"healthy": False, "problems": [problem], "gateway": found}
    session.out.result(document, table_of_workers, text(problem, "red"), *explained([problem]))
    raise typer.Exit(1)


def _loaded(versions: Sequence[admin_pb2.LoadedVersion]) -> str:
    return ", ".join(f"{found.model}/{found.version}" for found in versions) or "nothing"


def problems(found: rollout_pb2.GetStatusResponse) -> list[AlertText]:
    """Everything that is wrong, in words of the control plane and of the gateways, each with its identifier first."""
    of_models = [at(model.model, problem) for model in found.models for problem in model.problems]
    return of_models + [at(f"gateway {g.gateway_id}", problem) for g in found.gateways for problem in g.problems]


def explained(alerts: Sequence[AlertText]) -> list[RenderableType]:
    """Where to read what the alerts mean and what to do."""
    found = {which: None for text_ in alerts if (which := identifier(text_)) is not None}
    return [text(f"What it means and what to do: interlock explain {' '.join(found)}")] if found else []


def _models(found: rollout_pb2.GetStatusResponse) -> RenderableType:
    if not found.models:
        return text("No model is registered.")
    rows = (
        (
            m.model,
            _answers(m),
            moment(m.since_ns),
            m.promoted_by,
            ", ".join(m.approved_by) or ("nobody: unapproved" if m.trial_version else ""),
            ", ".join(str(version) for version in m.kept_versions),
            f"{m.last_change.action} {m.last_change.subject} by {m.last_change.actor}, {moment(m.last_change.time_ns)}",
        )
        for m in found.models
    )
    return table(("model", "answers", "since", "put there by", "approved by", "kept", "last change"), rows)


def _answers(model: rollout_pb2.ModelStatus) -> RenderableType:
    if model.champion_version:
        return text(f"{model.model}/{model.champion_version}")
    return text(f"{model.model}/{model.trial_version} on trial" if model.trial_version else "nobody", "yellow")


def _gateways(found: rollout_pb2.GetStatusResponse) -> RenderableType:
    if not found.gateways:
        return text(f"Revision {found.revision}; no gateway is connected.")
    rows = (
        (
            g.gateway_id,
            _mark(g.revision, found.revision),
            _mark(g.feature_sequence, found.feature_sequence),
            f"{g.report_age_ms} ms ago",
        )
        for g in found.gateways
    )
    return table(("gateway", f"revision (of {found.revision})", "feature batch", "reported"), rows)


def _mark(has: int, wanted: int) -> RenderableType:
    return text(f"{has} confirmed", "green") if has >= wanted else text(f"{has}, not yet {wanted}", "yellow")
