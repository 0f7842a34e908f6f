"""`interlock model stop` and `model start`: nobody answers for a model, and then somebody does again."""

from __future__ import annotations

from typing import Annotated

import typer

from control.cli.command import command
from control.cli.model import confirmation
from control.cli.output import text
from control.cli.session import Session

Model = Annotated[str, typer.Argument(help="The model.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for the audit trail.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the gateways to confirm.")]


def declare(app: typer.Typer) -> None:
    """Adds the commands to `interlock model`."""
    command(app, "stop")(stop)
    command(app, "start")(start)


def stop(session: Session, model: Model, reason: Reason, wait_s: Wait = 30.0) -> None:
    """Has nobody answer for a model: callers get its document's fallback, or an error; exit code 1 where one lags."""
    answer = session.control.stop(model, reason, wait_s)
    instead = "the fallback of its document, marked as such" if answer.fallback else "MODEL_STOPPED, an error"
    words = text(f"{model} is stopped by revision {answer.revision}: callers get {instead}.", "green")
    session.out.result(answer, words, text(confirmation(answer.confirmed, answer.pending, wait_s)))
    session.out.note(f"Next: interlock model start {model} --reason WHY{session.same_flags}")
    if answer.pending and wait_s:
        raise typer.Exit(1)


def start(session: Session, model: Model, reason: Reason, wait_s: Wait = 30.0) -> None:
    """Has the champion of a stopped model answer again; exit code 1 where a gateway lags."""
    answer = session.control.start(model, reason, wait_s)
    words = text(f"{model}/{answer.version} answers again, by revision {answer.revision}.", "green")
    session.out.result(answer, words, text(confirmation(answer.confirmed, answer.pending, wait_s)))
    session.out.note(f"Next: interlock status {model}{session.same_flags}")
    if answer.pending and wait_s:
        raise typer.Exit(1)
