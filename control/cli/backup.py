"""`interlock backup` and `interlock restore`: the control plane's data, out and in again."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from control import places
from control.cli.command import command
from control.cli.extras import needs_control
from control.cli.output import facts, moment, text
from control.cli.session import Session
from gateway.contract.errors import Fault, Reason

Directory = Annotated[Path, typer.Argument(metavar="DIR", show_default=False, file_okay=False)]


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "backup")(backup)
    command(app, "restore")(restore)


def backup(session: Session, directory: Directory) -> None:
    """Copies the control plane of --data to DIR while it runs, in one consistent cut, and verifies the copy.

    The folder keys/ in it holds tokens in clear: keep it apart from the rest.
    """
    needs_control("`interlock backup`")
    from control.store.backup import back_up

    made = back_up(session.data / "control", directory)
    words = f"{directory} holds everything up to audit entry {made.sequence}, and is verified."
    shown = facts(
        [
            ("history", made.history_id),
            ("head hash", made.head_hash),
            ("newest feature batch", made.feature_sequence),
            ("artifacts", made.artifacts),
        ]
    )
    session.out.result(made._asdict(), text(words, "green"), shown)
    session.out.note(
        f"{directory / 'keys'} holds tokens in clear: keep it apart.\n"
        f"To bring it back: interlock restore {directory} --data NEW_DIRECTORY"
    )


def restore(
    session: Session,
    directory: Directory,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Begin a new history without being asked.")] = False,
) -> None:
    """Verifies the backup in DIR and puts it into --data, where no control plane's data may be, as a new history."""
    needs_control("`interlock restore`")
    from control.store.backup import check
    from control.store.backup import restore as put_back

    if places.control_place(session.data):
        raise Fault(Reason.ARGUMENT_INVALID, f"a control plane runs in {session.data}; stop it, or name another --data")
    made = check(directory)
    session.out.note(
        f"{directory} was made {moment(made.created_at_ns)} and ends at audit entry {made.sequence}; what was decided "
        "later is lost.\nRestoring begins a new history: gateways of the former one refuse it until each is told."
    )
    if not yes and not typer.confirm("Restore it?", err=True):
        session.out.note("Nothing was done.")
        raise typer.Exit(1)
    history_id = put_back(directory, session.data / "control", getpass.getuser().lower())
    words = f"{session.data} is restored up to audit entry {made.sequence}; history {history_id} begins."
    session.out.result({"history_id": history_id, "sequence": made.sequence}, text(words, "green"))
    session.out.note(
        f"Next: interlock up{session.same_flags}\nOn each gateway host that followed the former history, once that "
        "runs: interlock gateway accept-history"
    )
