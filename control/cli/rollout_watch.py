"""`interlock rollout watch`: a rollout as it goes, until it is over."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from control.cli.command import command
from control.cli.output import console, text
from control.cli.rollout_lines import (
    Courses,
    Line,
    TestKey,
    describe,
    headline,
    keyed,
    next_command,
    progress,
)
from control.cli.rollout_target import Target, find
from control.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from control.v1 import rollout_pb2

LOOK_S: Final = 1.0
LOOKS_KEPT: Final = 30
"""Looks that a test's course shows."""


class Look(NamedTuple):
    """What was seen at one look."""

    answer: rollout_pb2.GetRolloutResponse
    """The newest that is known."""
    lost: str
    """Why nothing newer is known; empty where it is new."""


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "watch")(watch)


def watch(
    session: Session,
    target: Target,
    holdback: Annotated[bool, typer.Option("--holdback", help="Go on until the holdback has ended as well.")] = False,
) -> None:
    """Shows a rollout live, each second, until it is promoted or over; exit code 1 where it went back.

    Where standard output is no terminal, prints a line per change; with --json, a document per change.
    """
    try:
        last = _show(session, target, holdback)
    except KeyboardInterrupt:
        session.out.note("The rollout goes on without anybody watching.")
        raise typer.Exit(130) from None
    session.out.note(f"Next: {next_command(last)}{session.same_flags}")
    if last.outcome in ("rolled_back", "quarantined"):
        raise typer.Exit(1)


def _show(session: Session, target: str, holdback: bool) -> rollout_pb2.Rollout:
    live = sys.stdout.isatty() and not session.out.as_json
    looks = _looks(session, target, holdback)
    return _drawn(looks) if live else _told(session, looks)


def _looks(session: Session, target: str, holdback: bool) -> Iterator[Look]:
    """The rollout now and each second, until it is over; a control plane that goes away is waited for."""
    from control.connection import Unreachable

    answer = find(session.control, target)
    yield Look(answer, "")
    while not over(answer.rollout, holdback):
        time.sleep(LOOK_S)
        try:
            answer, lost = session.control.rollout(rollout_id=answer.rollout.rollout_id), ""
        except Unreachable as failed:
            lost = f"{failed.message}; gateways go on, and step back alone if they must"
        yield Look(answer, lost)


def over(rollout: rollout_pb2.Rollout, holdback: bool) -> bool:
    """Whether there is nothing more to wait for: weeks of holdback are waited for only by who says so."""
    return bool(rollout.outcome) or (rollout.phase == "holdback" and not holdback)


def _told(session: Session, looks: Iterator[Look]) -> rollout_pb2.Rollout:
    said: tuple[object, ...] = ()
    for look in looks:
        if (what := change(look)) != said:
            said = what
            session.out.result(look.answer, text(told(look, time.time_ns())))
            sys.stdout.flush()
    return look.answer.rollout


def change(look: Look) -> tuple[object, ...]:
    """What is worth a line when it changes: not the figures of a sentence, which change with every row."""
    r = look.answer.rollout
    return (r.phase, r.step, r.weight_bps, r.paused, r.verdict, r.cause, r.outcome, bool(look.lost), *r.alerts)


def told(look: Look, now_ns: int) -> str:
    """A look in one line."""
    rollout = look.answer.rollout
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now_ns // 1_000_000_000))
    verdict = f"{rollout.verdict.replace('_', ' ')}, {rollout.cause.replace('_', ' ')}: " if rollout.verdict else ""
    alerts = "".join(f"  ALERT: {words}" for words in rollout.alerts)
    return f"{at}  {headline(rollout)}  {look.lost or verdict + rollout.reason}{alerts}".rstrip()


def _drawn(looks: Iterator[Look]) -> rollout_pb2.Rollout:
    from rich.live import Live

    courses: dict[TestKey, deque[float]] = {}
    with Live(console=console(sys.stdout), auto_refresh=False, transient=False) as live:
        for look in looks:
            for key, found in keyed(look.answer.rollout.findings):
                courses.setdefault(key, deque(maxlen=LOOKS_KEPT)).append(progress(found))
            live.update(_painted(picture(look, time.time_ns(), courses)), refresh=True)
    return look.answer.rollout


def picture(look: Look, now_ns: int, courses: Courses) -> list[Line]:
    """A look as the live view shows it."""
    lines = describe(look.answer, now_ns, {key: list(course) for key, course in courses.items()})
    return [*lines, Line(""), Line(look.lost, "yellow")] if look.lost else lines


def _painted(lines: list[Line]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(line.words, style=line.style) for line in lines))
