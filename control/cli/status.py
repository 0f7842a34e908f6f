"""`interlock status`: who answers, since when, by whose leave, and whether every gateway confirms it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from control import places
from control.cli.command import command
from control.cli.hints import suggest
from control.cli.output import facts, moment, table, text
from control.cli.rollout_lines import headline, next_command
from control.cli.session import Session
from gateway.contract.alerts import Alert, AlertText, alert, at, identifier

if TYPE_CHECKING:
    from rich.console import RenderableType

    from control.connection import Unreachable
    from control.v1 import rollout_pb2
    from gateway.v1 import admin_pb2

DOING_BADLY: Final = frozenset({Alert.CHAMPION_DECAYS, Alert.PROMOTED_VERSION_HARMS})
"""Alerts of which a rollback is the way out."""


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
    shown = _one_model(found.models[0]) if len(found.models) == 1 else _models(found)
    parts: list[RenderableType] = [shown, *_rollouts(found), text(""), _gateways(found)]
    parts += [text(problem, "red") for problem in wrong]
    parts += explained(wrong)
    if not wrong and found.models:
        parts.append(text("All is well.", "green"))
    session.out.result({"healthy": not wrong, "problems": wrong, "status": found}, *parts)
    if remedy := next((command for m in found.models if (command := _remedy(m))), ""):
        session.out.note(f"Next: {remedy}{session.same_flags}")
    else:
        suggest(session, "Next", model)
    if wrong:
        raise typer.Exit(1)


def _remedy(model: rollout_pb2.ModelStatus) -> str:
    """The command that ends what an operator did to the model, that undoes what goes wrong, or that a rollout needs."""
    if model.HasField("stopped"):
        return f"interlock model start {model.model} --reason WHY"
    if model.kept_versions and any(identifier(problem) in DOING_BADLY for problem in model.problems):
        return f"interlock rollback {model.model} --reason WHY"
    return next_command(model.rollouts[0]) if model.rollouts else ""


def _rollouts(found: rollout_pb2.GetStatusResponse) -> list[RenderableType]:
    """What is tried, and what the last judgement of it said."""
    return [
        text(f"{headline(rollout)}. {rollout.reason}".rstrip(), "yellow" if rollout.needs_person else "")
        for model in found.models
        for rollout in model.rollouts
    ]


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
    withdrawn = [_withdrawn(one) for one in found.withdrawn]
    document = {"healthy": False, "problems": [problem], "gateway": found}
    lines = [text(line, "yellow") for line in withdrawn]
    lines += [text(f"The prediction log is {found.lake.off}", "yellow")] if found.lake.off else []
    session.out.result(document, table_of_workers, *lines, text(problem, "red"), *explained([problem]))
    session.out.note(
        f"If a version is bad, this host can step back now: interlock gateway rollback MODEL --reason WHY"
        f"{session.same_flags}"
    )
    raise typer.Exit(1)


def _withdrawn(one: admin_pb2.WithdrawnVersion) -> str:
    known = "recorded by the control plane" if one.acknowledged else "not known to the control plane yet"
    because = f" ({one.reason})" if one.reason else ""
    return f"{one.model}/{one.version} is withdrawn here, by {one.actor}, {moment(one.time_ns)}{because}; {known}"


def _loaded(versions: Sequence[admin_pb2.LoadedVersion]) -> str:
    return ", ".join(f"{found.model}/{found.version}" for found in versions) or "nothing"


def problems(found: rollout_pb2.GetStatusResponse) -> list[AlertText]:
    """Everything that is wrong, in words of the control plane and of the gateways, each with its identifier first."""
    of_models = [at(model.model, problem) for model in found.models for problem in model.problems]
    of_models += [at(f"gateway {g.gateway_id}", problem) for g in found.gateways for problem in g.problems]
    return of_models + [AlertText(gone.problem) for gone in found.away if gone.problem]


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


def _one_model(model: rollout_pb2.ModelStatus) -> RenderableType:
    """One model, line by line: a table of one row would be too wide to read."""
    change = model.last_change
    pairs: list[tuple[str, object]] = [("model", model.model), ("answers", _answers(model))]
    if model.since_ns:
        pairs += [("since", f"{moment(model.since_ns)}, put there by {model.promoted_by}")]
        pairs += [("approved by", ", ".join(model.approved_by) or "nobody: unapproved")]
    kept = ", ".join(f"{model.model}/{version}" for version in model.kept_versions)
    pairs += [("can go back to", kept or "no version")] if model.champion_version else []
    if change.action:
        pairs += [("last change", f"{change.action} {change.subject} by {change.actor}, {moment(change.time_ns)}")]
    return facts(pairs)


def _answers(model: rollout_pb2.ModelStatus) -> RenderableType:
    if model.HasField("stopped"):
        instead = "its fallback" if model.stopped.fallback else "MODEL_STOPPED"
        return text(f"nobody, stopped by {model.stopped.actor}: callers get {instead}", "yellow")
    if model.champion_version:
        return text(f"{model.model}/{model.champion_version}")
    return text(f"{model.model}/{model.trial_version} on trial" if model.trial_version else "nobody", "yellow")


def _gateways(found: rollout_pb2.GetStatusResponse) -> RenderableType:
    if not found.gateways and not found.away:
        return text(f"Revision {found.revision}; no gateway is connected.")
    here = (
        (
            g.gateway_id,
            _mark(g.revision, found.revision),
            _mark(g.feature_sequence, found.feature_sequence),
            f"{g.report_age_ms} ms ago",
        )
        for g in found.gateways
    )
    gone = (
        (g.gateway_id, _mark(g.revision, found.revision), "", text(f"away since {moment(g.seen_ns)}", "yellow"))
        for g in found.away
    )
    return table(("gateway", f"revision (of {found.revision})", "feature batch", "reported"), (*here, *gone))


def _mark(has: int, wanted: int) -> RenderableType:
    return text(f"{has} confirmed", "green") if has >= wanted else text(f"{has}, not yet {wanted}", "yellow")
