"""`interlock features`: view definitions, and the rows that fill the gateways' online stores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from control.cli.arguments import ExistingFile, read_lines, read_text
from control.cli.command import command, group
from control.cli.output import facts, moment, short, table, text
from control.cli.session import Session
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from control.cli.feature_rows import Layout
    from control.v1 import features_pb2
    from gateway.contract.schema import FeatureView

app = group("Define feature views, materialize their rows, and look at what a gateway holds.")


@command(app, "apply")
def apply(
    session: Session,
    definitions: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, metavar="VIEW.yaml")],
) -> None:
    """Stores view definitions. A changed one becomes a view of its own beside the old, under its own hash."""
    applied = []
    for path in definitions:
        answer = session.control.apply_view(read_text(path))
        applied.append(answer)
        view, state = answer.view, "stored" if answer.created else "was stored before"
        session.out.note(f"{path}: view {view.name} {state}.")
    rows = ((a.view.name, a.view.hash, a.view.rows, moment(a.view.applied_at_ns)) for a in applied)
    session.out.result({"applied": applied}, table(("view", "hash", "rows", "applied"), rows))
    empty = next((a.view.name for a in applied if not a.view.rows), None)
    if empty:
        session.out.note(f"Next: interlock features materialize {empty} ROWS.csv{session.same_flags}")


@command(app, "list")
def list_views(
    session: Session, name: Annotated[str, typer.Argument(help="Only the definitions of this name.")] = ""
) -> None:
    """Lists view definitions, newest first."""
    views = session.control.views(name)
    rows = ((v.name, v.hash, v.rows, v.last_sequence or "", v.applied_by, moment(v.applied_at_ns)) for v in views)
    columns = ("view", "hash", "rows", "last batch", "applied by", "when")
    session.out.result({"views": views}, table(columns, rows) if views else text("No view is stored."))


@command(app, "materialize")
def materialize(
    session: Session,
    view: Annotated[str, typer.Argument(help="The view, by name (its newest definition) or hash.")],
    rows: ExistingFile,
    key: Annotated[str, typer.Option(help="Column of the entity keys; otherwise the one named as the entity.")] = "",
    event_time: Annotated[
        str, typer.Option("--time", help="Column of the event times: ISO 8601, or UTC nanoseconds.")
    ] = "event_time",
    at: Annotated[str, typer.Option(help="One event time for all rows, instead of a column: ISO 8601, or now.")] = "",
) -> None:
    """Sends rows of a view from a CSV file to every gateway. An empty cell is a missing value."""
    from gateway.contract.schema import view_from_json

    stored = find_view(session, view)
    definition = view_from_json(stored.definition_json)
    layout = _layout(definition, key, event_time, at)
    sent = _send(session, stored.hash, definition, rows, layout)
    session.out.result(
        {"view": stored.name, "view_hash": stored.hash, **sent},
        text(f"{sent['rows']} rows of {stored.name} are durable, in {sent['batches']} batches.", "green"),
        facts([("view hash", stored.hash), ("last batch", sent["last_sequence"])]),
    )
    session.out.note(f"Next: interlock features get {definition.entity} KEY{session.same_flags}")


@command(app, "get")
def get(
    session: Session,
    entity: Annotated[str, typer.Argument(help="The entity, as views name it: subscriber.")],
    key: Annotated[str, typer.Argument(help="Its key.")],
    admin: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The gateway's admin port; otherwise that of the gateway in --data."),
    ] = None,
) -> None:
    """Shows what a gateway holds for an entity, as a request would find it; exit code 1 where that is nothing."""
    found = session.gateway_admin(admin).features(entity, key)
    parts = []
    for row in found.rows:
        parts.append(text(f"{row.view} ({short(row.view_hash)}), event time {moment(row.event_time_ns)}", "bold"))
        values = ((f.name, f.value if f.HasField("value") else text("null", "dim")) for f in row.features)
        parts.append(facts(values))
    nothing = text(f"No view holds a row for {entity} {key} (feature batch {found.feature_sequence} is applied).")
    session.out.result(found, *(parts or [nothing]))
    if not found.rows:
        raise typer.Exit(1)


def find_view(session: Session, name_or_hash: str) -> features_pb2.FeatureView:
    """A stored view by its name (the newest definition) or by its hash or the start of that; raises Fault."""
    found = session.control.views(name_or_hash)
    if not found and len(name_or_hash) >= 8:
        found = [view for view in session.control.views() if view.hash.startswith(name_or_hash)]
    if not found:
        raise Fault(
            Reason.VIEW_UNKNOWN,
            f"no view is called {name_or_hash}: `interlock features list` shows them, `features apply` stores one",
        )
    return found[0]


def _layout(view: FeatureView, key: str, time_column: str, at: str) -> Layout:
    from control.cli.feature_rows import Layout, parse_time

    if not at:
        return Layout(key or view.entity, time_column)
    try:
        at_ns = time.time_ns() if at == "now" else parse_time(at, ZoneInfo(view.timezone))
    except ValueError as error:
        raise Fault(Reason.ARGUMENT_INVALID, f"--at {error}") from None
    return Layout(key or view.entity, None, at_ns)


def _send(session: Session, view_hash: str, view: FeatureView, path: Path, layout: Layout) -> dict[str, int]:
    from control.cli.feature_rows import feature_chunks

    def chunks() -> Iterator[features_pb2.FeatureRows]:
        return feature_chunks(read_lines(path), view, layout, path.name)

    sent = {"rows": 0, "batches": 0, "last_sequence": 0}
    with session.out.progress() as progress:
        task = progress.add_task(f"checking {path.name}", total=None) if progress else None
        # Read once before anything is sent: a bad cell at the end of the file leaves nothing behind.
        rows = sum(len(chunk.keys) for chunk in chunks())
        if progress and task is not None:
            progress.update(task, description=f"{path.name} ({rows} rows)", total=rows)
        for answer in session.control.materialize(view_hash, chunks, rows):
            sent["rows"] += answer.rows
            sent["batches"] += 1
            sent["last_sequence"] = answer.sequence
            if progress and task is not None:
                progress.update(task, completed=sent["rows"])
    return sent
