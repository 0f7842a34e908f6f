"""How commands are declared: each gets the shared options and a session without naming them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from control.cli.session import Options, Session
from control.places import DEFAULT_DATA

PANEL: Final = "Options of every command"
SHARED: Final[dict[str, tuple[Any, Any]]] = {
    "data": (
        Annotated[
            Path | None,
            typer.Option(
                help=f"Directory of the installation on this host (or INTERLOCK_DATA; {DEFAULT_DATA}).",
                rich_help_panel=PANEL,
            ),
        ],
        None,
    ),
    "control": (
        Annotated[
            str | None,
            typer.Option(
                metavar="HOST:PORT",
                help="The control plane (or INTERLOCK_CONTROL; the one that runs in --data).",
                rich_help_panel=PANEL,
            ),
        ],
        None,
    ),
    "gateway": (
        Annotated[
            str | None,
            typer.Option(
                metavar="HOST:PORT",
                help="The gateway (or INTERLOCK_GATEWAY; the one that runs in --data).",
                rich_help_panel=PANEL,
            ),
        ],
        None,
    ),
    "token": (
        Annotated[
            str | None,
            typer.Option(
                help="Your bearer token (or --token-file, or INTERLOCK_TOKEN; the operator's in --data).",
                rich_help_panel=PANEL,
            ),
        ],
        None,
    ),
    "token_file": (
        Annotated[Path | None, typer.Option(help="File that holds your bearer token.", rich_help_panel=PANEL)],
        None,
    ),
    "json": (
        Annotated[
            bool,
            typer.Option("--json", help="Print one JSON document; errors too, on stderr.", rich_help_panel=PANEL),
        ],
        False,
    ),
    "verbose": (
        Annotated[
            bool,
            typer.Option("--verbose", "-v", help="Say which address and token are used.", rich_help_panel=PANEL),
        ],
        False,
    ),
}

Body = Callable[..., None]


def group(summary: str) -> typer.Typer:
    """A noun, under which its verbs are declared."""
    return typer.Typer(help=summary, rich_markup_mode="rich")


def command(app: typer.Typer, name: str) -> Callable[[Body], Body]:
    """Declares a function as a command. Its first parameter is the session; Typer sees the shared options instead."""

    def declare(body: Body) -> Body:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]

        @functools.wraps(body)
        def run(**given: Any) -> None:
            options = Options(**{field.name: given.pop(field.name) for field in fields(Options)})
            with Session(options) as session:
                body(session, **given)

        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for key, (annotation, default) in SHARED.items()
        ]
        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*keyword_only, *shared])  # type: ignore[attr-defined]  # what Typer reads
        run.__annotations__ = {}
        app.command(name)(run)
        return body

    return declare
