"""`interlock explain`: the paragraph of an error's reason or of an alert, where no page is at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from control.cli.command import command
from control.cli.output import text
from control.cli.problem import ExitCode, Problem
from control.cli.session import Session
from gateway.contract.alerts import ALERTS
from gateway.contract.errors import CATALOGUE

PARAGRAPHS = {str(reason): entry.meaning for reason, entry in CATALOGUE.items()} | {
    str(which): paragraph for which, paragraph in ALERTS.items()
}


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "explain")(explain)


def explain(
    session: Session,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As errors and `interlock status` print them.")],
) -> None:
    """Says what an error's reason or an alert means and what to do; needs no server."""
    wanted = [name.strip(":").upper() for name in names]
    unknown = [name for name in wanted if name not in PARAGRAPHS]
    if unknown:
        known = ", ".join(sorted(PARAGRAPHS))
        said = f"nothing in the catalogue is called {unknown[0]} (what `interlock` says of itself is complete as said)"
        raise Problem("ARGUMENT_INVALID", f"{said}; there are {known}", ExitCode.MISUSED)
    found = {name: PARAGRAPHS[name] for name in wanted}
    parts = [text(f"{name}\n{paragraph}\n") for name, paragraph in found.items()]
    session.out.result(found, *parts)
