"""`interlock rollback`: the former champion answers again, whatever the hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from control.cli.command import command
from control.cli.model import confirmation
from control.cli.output import text
from control.cli.session import Session


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "rollback")(rollback)


def rollback(
    session: Session,
    model: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    to: Annotated[int, typer.Option(min=0, help="The former champion to go back to; 0 takes the last one.")] = 0,
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "",
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait for the gateways to confirm.")] = 30.0,
) -> None:
    """Makes a former champion answer again, at any time and without an approval; exit code 1 where a gateway lags.

    The version that answered becomes rolled_back: it needs a new approval before it can be promoted again.
    """
    answer = session.control.roll_back(model, to, reason, wait_s)
    words = f"{model}/{answer.to_version} answers by revision {answer.revision}; {model}/{answer.from_version} is"
    session.out.result(
        answer,
        text(f"{words} rolled_back.", "green"),
        text(confirmation(answer.confirmed, answer.pending, wait_s)),
        *([text(_away(model, answer.away), "yellow")] if answer.away else []),
    )
    session.out.note(f"Next: interlock status {model}{session.same_flags}")
    if answer.pending and wait_s:
        raise typer.Exit(1)


def _away(model: str, gateways: Sequence[str]) -> str:
    return (
        f"Not connected, though here within the last day: {', '.join(gateways)}. They follow when they are back; until "
        f"then `interlock gateway rollback {model} --reason WHY` on their hosts does it."
    )
