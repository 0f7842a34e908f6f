"""Steps with a name, a figure and their seconds: shown one a line, and reported."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.markup import escape

Teller = TypeVar("Teller")


class Done(NamedTuple):
    """A step that was taken."""

    name: str
    seconds: float
    ok: bool


class Rollback(NamedTuple):
    """How a planted mistake was found."""

    kind: str
    rolled_back: bool
    seconds_from_first_bad_reply: float
    """Until the rollout had ended, and no call was tried on the version any more."""
    bad_replies: int
    """Calls on which the version failed or was wrong, whichever version answered in the end."""
    requests_until_verdict: int
    """Calls of all kinds, from the first that the rollout gave to the version."""


@dataclass(slots=True)
class Report:
    """What `--report` writes."""

    ok: bool = False
    steps: list[Done] = field(default_factory=list)
    rows_scored: int = 0
    """Held-out subscribers whose scores were compared with scikit-learn's."""
    max_abs_diff: float = 0.0
    """The largest difference over every comparison that was made."""
    calls_during_promotion: int = 0
    """Of callers while the second version was on its way to all of them."""
    failed_calls: int = 0
    """Over all rollouts."""
    rollbacks: list[Rollback] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        content = asdict(self) | {
            "steps": [step._asdict() for step in self.steps],
            "rollbacks": [found._asdict() for found in self.rollbacks],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")


class StepFailed(Exception):  # noqa: N818 - the step failed, and this says so
    """A step raised; its message is for people."""


def take(console: Console, report: Report, name: str, step: Callable[[], str]) -> None:
    """Takes a step and prints its line; raises StepFailed from whatever it raised."""
    began = time.monotonic()
    try:
        with console.status(f"[bold]{escape(name)}[/bold]"):
            figure = step()
    except Exception as error:
        _close(console, report, Done(name, time.monotonic() - began, ok=False), f"{type(error).__name__}: {error}")
        raise StepFailed(f"{name}: {error}") from error
    _close(console, report, Done(name, time.monotonic() - began, ok=True), figure)


def take_all(
    console: Console, report: Report, steps: Sequence[tuple[str, Callable[[Teller], str]]], teller: Teller
) -> None:
    """Takes the steps in order."""
    for name, step in steps:
        take(console, report, name, lambda step=step: step(teller))  # type: ignore[misc]  # mypy cannot infer it


def _close(console: Console, report: Report, done: Done, figure: str) -> None:
    report.steps.append(done._replace(seconds=round(done.seconds, 3)))
    sign = "[green]✓[/green]" if done.ok else "[red]✗[/red]"
    # soft_wrap: a line that is longer than the terminal stays one line.
    console.print(
        f"{sign} {escape(done.name):<33} {escape(figure):<74} [dim]{done.seconds:>6.1f} s[/dim]",
        soft_wrap=True,
        highlight=False,
    )
