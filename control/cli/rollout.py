"""`interlock rollout`: a new version is tried, step by step, and goes back by itself if it does harm."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli import rollout_replay, rollout_watch
from control.cli.arguments import parse_version, read_text
from control.cli.command import command, group
from control.cli.model import confirmation
from control.cli.output import moment, table, text
from control.cli.rollout_lines import (
    Line,
    describe,
    headline,
    next_command,
    place,
    policy_lines,
    subject,
)
from control.cli.rollout_mirror import mirror_lines
from control.cli.rollout_target import Target, find
from control.cli.rollout_trail import last_findings
from control.cli.session import Session
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from rich.console import RenderableType

    from control.v1 import rollout_pb2

app = group("Try a new version on evidence: shadow, canary, full traffic, or back.")

Model = Annotated[str, typer.Argument(help="The model.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Every rollout of every model.")]
Why = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the gateways to confirm.")]


@command(app, "start")
def start(
    session: Session,
    model: Annotated[str, typer.Argument(help="The model, or MODEL/VERSION.", show_default=False)],
    version: Annotated[
        int | None, typer.Argument(min=1, help="The approved version to try.", show_default=False)
    ] = None,
    *,
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="YAML file with what should differ from the tier's policy."),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Only mirror it: it answers nobody, and keeps no other rollout away.")
    ] = False,
    wait_s: Wait = 30.0,
) -> None:
    """Tries an approved version against the champion; exit code 1 where a gateway lags."""
    named = parse_version(f"{model}/{version}" if version else model)
    written = read_text(policy) if policy else ""
    answer = session.control.start_rollout(*named, written, shadow_only=shadow, wait_s=wait_s)
    rollout = answer.rollout
    session.out.result(
        answer,
        text(f"Rollout {rollout.rollout_id}: {headline(rollout)}.", "green"),
        *(text(line) for line in answer.forecast),
        *(text(f"Warning: {line}", "yellow") for line in answer.warnings),
        text(confirmation(answer.confirmed, answer.pending, wait_s)),
    )
    session.out.note(f"Next: {next_command(rollout)}{session.same_flags}")
    if answer.pending and wait_s:
        raise typer.Exit(1)


@command(app, "list")
def list_rollouts(
    session: Session,
    model: Annotated[str, typer.Option(help="Only this model's.")] = "",
    ended: Annotated[bool, typer.Option("--ended", help="Those that ended as well.")] = False,
) -> None:
    """Lists rollouts, the newest first."""
    found = session.control.rollouts(model, ended=ended)
    rows = (
        (r.rollout_id, subject(r), r.control, place(r), moment(r.started_ns), r.started_by, r.reason) for r in found
    )
    columns = ("rollout", "version", "against", "stands", "started", "by", "last judgement")
    nothing = text("No rollout was ever started." if ended else "No rollout runs.")
    session.out.result({"rollouts": found}, table(columns, rows) if found else nothing)
    if found:
        session.out.note(f"Next: {next_command(found[0])}{session.same_flags}")
    else:
        session.out.note(f"Next: interlock rollout start MODEL VERSION{session.same_flags}")


@command(app, "show")
def show(session: Session, target: Target) -> None:
    """Shows where a rollout stands: its policy, every test's e-value, what mirrors saw, and the next command."""
    from control.rollout.policy import Policy

    answer = find(session.control, target)
    if answer.rollout.outcome and not answer.rollout.findings:
        answer.rollout.findings.extend(last_findings(session.control, answer.rollout))
    parts = _rendered(describe(answer, time.time_ns()))
    if mirrored := mirror_lines(json.loads(answer.mirror_json or "{}")):
        parts += [text("\nmirror", "bold"), *_rendered(mirrored)]
    policy = Policy.model_validate_json(answer.policy_json)
    parts += [text(f"\npolicy {policy.digest()[:12]}", "bold"), *_rendered(policy_lines(policy))]
    session.out.result(answer, *parts)
    session.out.note(f"Next: {next_command(answer.rollout)}{session.same_flags}")


rollout_watch.declare(app)


@command(app, "pause")
def pause(session: Session, model: Model = "", *, every: All = False, reason: Why) -> None:
    """Keeps a rollout, or all of them, from advancing; evidence against it still counts."""
    _check_chosen(model, every)
    found = session.control.pause_rollout(model, reason)
    session.out.result({"rollouts": found}, *(text(f"{subject(r)} is paused: {place(r)}.", "yellow") for r in found))
    session.out.note(f"Next: interlock rollout resume {model or '--all'}{session.same_flags}")


@command(app, "resume")
def resume(session: Session, model: Model = "", *, every: All = False, reason: Why = "") -> None:
    """Lets a paused rollout, or all of them, go on."""
    _check_chosen(model, every)
    found = session.control.resume_rollout(model, reason)
    session.out.result({"rollouts": found}, *(text(f"{subject(r)} goes on: {place(r)}.", "green") for r in found))
    session.out.note(f"Next: {next_command(found[0])}{session.same_flags}")


@command(app, "promote")
def promote(session: Session, model: Model, *, reason: Why, wait_s: Wait = 30.0) -> None:
    """Promotes the challenger against HOLD, as an approver: it stands as "promoted without evidence".

    From then on only deterministic guards roll it back; harm that statistics see is an alert.
    """
    answer = session.control.promote_rollout(model, reason, wait_s)
    words = f"{subject(answer.rollout)} is promoted without evidence, by revision {answer.revision}"
    _moved(session, answer, f"{words}: {place(answer.rollout)}.", wait_s)


@command(app, "rollback")
def rollback(
    session: Session,
    model: Model,
    version: Annotated[int, typer.Option(min=0, help="The version on trial, of several in shadow.")] = 0,
    *,
    reason: Why,
    wait_s: Wait = 30.0,
) -> None:
    """Ends a rollout: the version that it was compared with answers alone; exit code 1 where a gateway lags."""
    answer = session.control.roll_back_rollout(model, version, reason, wait_s)
    rollout = answer.rollout
    words = f"{subject(rollout)} is off by revision {answer.revision} ({place(rollout)})"
    since = "it is mirrored no more" if rollout.shadow_only else f"{model}/{rollout.control} answers alone"
    _moved(session, answer, f"{words}: {since}.", wait_s)


rollout_replay.declare(app)


def _moved(
    session: Session,
    answer: rollout_pb2.PromoteRolloutResponse | rollout_pb2.RollBackRolloutResponse,
    words: str,
    wait_s: float,
) -> None:
    confirmed = text(confirmation(answer.confirmed, answer.pending, wait_s))
    session.out.result(answer, text(words, "green"), confirmed)
    session.out.note(f"Next: interlock status {answer.rollout.model}{session.same_flags}")
    if answer.pending and wait_s:
        raise typer.Exit(1)


def _check_chosen(model: str, every: bool) -> None:
    if bool(model) == every:
        raise Fault(Reason.ARGUMENT_INVALID, "name one MODEL, or say --all")


def _rendered(lines: Sequence[Line]) -> list[RenderableType]:
    return [text(line.words, line.style) for line in lines]
