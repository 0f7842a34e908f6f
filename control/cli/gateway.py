"""`interlock gateway`: starts one; and what an operator does to the gateway of this host, control plane or not."""

from __future__ import annotations

import getpass
import json
import subprocess
import time
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from control import places
from control.cli.command import command
from control.cli.output import text
from control.cli.problem import ExitCode, Problem
from control.cli.processes import service_command, service_environment
from control.cli.services import become
from control.cli.session import Session

POLL_S: Final = 0.2


class StartOrCommand(TyperGroup):
    """Starts a gateway unless the first argument is one of the commands: every flag is the gateway's own then."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Becomes the gateway where no command is named; a word that is none is a mistyped command."""
        if not args or args[0].startswith("-"):
            become("gateway", args)
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=StartOrCommand,
    help="Start a gateway (`interlock gateway --help` lists its flags), or command the one of this host.",
    invoke_without_command=True,
    rich_markup_mode="rich",
)


@command(app, "rollback")
def rollback(
    session: Session,
    model: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    *,
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")],
    to: Annotated[int, typer.Option(min=0, help="The former champion to step back to; 0 takes the last one.")] = 0,
    wait_s: Annotated[float, typer.Option(min=0, max=60, help="Seconds to wait for the workers.")] = 10.0,
) -> None:
    """Has a former champion answer on this host's gateway, durably, whether the control plane runs or not.

    The control plane records it when it hears of it, and rolls the model back for all gateways.
    """
    actor = getpass.getuser().lower()
    if places.gateway_place(session.data) is None:
        said = _without_a_process(session, "step-back", model, f"--to={to}", f"--actor={actor}", f"--reason={reason}")
        words = _withdrawn(model, said["answers"], said["withdrawn"])
        session.out.result(said, text(words, "green"), text("No gateway runs here: it is so from its next start on."))
        return
    answer = session.gateway_admin().step_back(model, to, reason, actor, wait_s)
    workers = f"In force in {answer.confirmed} of {answer.confirmed + answer.pending} workers."
    words = _withdrawn(model, answer.answers, [one.version for one in answer.withdrawn])
    session.out.result(answer, text(words, "green"), text(workers, "yellow" if answer.pending else ""))
    session.out.note(f"Next: interlock status{session.same_flags}")
    if answer.pending and wait_s:
        raise typer.Exit(1)


@command(app, "accept-history")
def accept_history(
    session: Session,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without being asked.")] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait until it serves again.")] = 120.0,
) -> None:
    """Has this host's gateway follow a control plane that was restored from a backup, or put in the place of another.

    It forgets its routes and features, and fetches them anew: it serves nothing until they are there. The versions that
    it stepped back from stay withdrawn.
    """
    if places.gateway_place(session.data) is None:
        if not (session.data / "gateway").is_dir():
            raise Problem("ARGUMENT_INVALID", f"{session.data} holds no gateway's data; name its directory by --data")
        session.out.note("No gateway runs here: its routes and features are forgotten, and fetched at its next start.")
        _ask(yes)
        session.out.result(_without_a_process(session, "accept-history"), text("Forgotten.", "green"))
        return
    admin = session.gateway_admin()
    before = admin.status()
    offered = before.refused_history_id
    if not offered:
        raise Problem(
            "HISTORY_MISMATCH",
            f"this gateway follows history {before.history_id or '(none yet)'}, and its control plane offers no other",
            ExitCode.REFUSED,
        )
    session.out.note(
        f"This gateway follows history {before.history_id}; its control plane offers {offered}.\n"
        "Accept it only if you know that this control plane is right: `interlock restore` printed the id.\n"
        "It serves nothing until it has fetched routes and features anew."
    )
    _ask(yes)
    admin.accept_history(offered)
    deadline = time.monotonic() + wait_s
    while (found := admin.status()).history_id != offered or not any(worker.ready for worker in found.workers):
        if time.monotonic() > deadline:
            raise Problem("NOT_READY", f"it does not serve after {wait_s:g} s; `interlock status`", ExitCode.REFUSED)
        time.sleep(POLL_S)
    words = f"This gateway follows history {offered}, and serves revision {found.revision} of it."
    session.out.result(found, text(words, "green"))


def _ask(yes: bool) -> None:
    if not yes and not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def _withdrawn(model: str, answers: int, withdrawn: list[int]) -> str:
    gone = ", ".join(f"{model}/{version}" for version in withdrawn)
    return f"{model}/{answers} answers on this gateway; {gone} does not any more, whatever the control plane says."


def _without_a_process(session: Session, *arguments: str) -> dict[str, Any]:
    """Has the gateway's own program change its data directory."""
    name, *rest = arguments
    given = service_command("gateway", [name, f"--data={session.data / 'gateway'}", *rest])
    done = subprocess.run(given, env=service_environment(), stdout=subprocess.PIPE, text=True, check=False)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise Problem("INTERNAL", f"the gateway's program ended with exit code {done.returncode}") from None
    if done.returncode:
        raise Problem(said["reason"], said["message"], ExitCode.REFUSED)
    return said
