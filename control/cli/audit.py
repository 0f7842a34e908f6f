"""`interlock audit`: what happened, and proof that the record of it is whole."""

from __future__ import annotations

import json
import re
from typing import Annotated, Final

import typer

from control.cli.command import command, group
from control.cli.output import facts, moment, short, table, text
from control.cli.session import Session

DIGEST: Final = re.compile(r"\b[0-9a-f]{64}\b")

app = group("Read the audit trail and verify it.")


@command(app, "list")
def list_entries(
    session: Session,
    subject: Annotated[str, typer.Argument(help="Only entries about this, such as churn or churn/2.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many entries.")] = 20,
    before: Annotated[int, typer.Option(min=0, help="Only entries before this number; 0 starts at the newest.")] = 0,
) -> None:
    """Lists entries of the trail, newest first."""
    found = session.control.audit(subject, limit, before)
    rows = (
        (e.sequence, moment(e.time_ns), e.actor, e.action, _digests_cut(e.subject), _brief(e.details_json))
        for e in found
    )
    columns = ("entry", "when", "actor", "action", "subject", "facts")
    session.out.result({"entries": found}, table(columns, rows) if found else text("No such entry."))
    if len(found) == limit and found[-1].sequence > 1:
        session.out.note(f"Older entries: --before {found[-1].sequence}")


@command(app, "verify")
def verify(session: Session) -> None:
    """Has the whole trail's hashes recomputed; exit code 1 where it was altered."""
    found = session.control.verify_audit()
    if found.ok:
        words = text(f"The trail is whole: {found.entries} entries.", "green")
        session.out.result(found, words, facts([("head hash", found.head_hash)]))
        session.out.note("Note the head hash elsewhere: a trail that was rewritten whole can be told by it alone.")
        return
    words = f"The trail is broken at entry {found.first_bad}: {found.problem}"
    session.out.result(found, text(words, "bold red"))
    raise typer.Exit(1)


def _brief(details_json: str) -> str:
    """The facts in a line: --json has them whole."""
    details = json.loads(details_json or "{}")
    shown = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in details.items())
    return _digests_cut("  ".join(shown))


def _digests_cut(words: str) -> str:
    return DIGEST.sub(lambda found: short(found.group()), words)
