"""`python -m control.demo`: takes the steps, and ends what it started whatever happens."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from shlex import quote
from shutil import which
from types import FrameType

from rich.console import Console
from rich.markup import escape

from control.demo.directory import claim
from control.demo.services import Services
from control.demo.steps import Report, StepFailed, take_all


def main() -> int:
    """Runs the demo and returns the exit code: 0 where every step was taken, 1 where one failed, 2 for a bad call."""
    arguments = _arguments()
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    began, report = time.monotonic(), Report()
    try:
        data = claim(arguments.data)
    except ValueError as error:
        console.print(f"[red]demo:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    try:
        with Services(data) as services:
            subscriber = _tell(console, report, services)
        report.ok = True
    except StepFailed as failed:
        where = f"The services' logs are in {arguments.data / 'logs'}"
        console.print(f"[red]demo failed:[/red] {escape(f'{failed}. {where}')}", soft_wrap=True, highlight=False)
    except ImportError as error:
        console.print(
            f"[red]demo failed:[/red] {error}; the demo needs `pip install 'interlock\\[all]'`", soft_wrap=True
        )
    except KeyboardInterrupt:
        console.print("[red]demo stopped[/red]; every process of it has ended")
    finally:
        if arguments.report:
            report.write(arguments.report)
    if not report.ok:
        return 1
    _farewell(console, time.monotonic() - began, arguments.data, subscriber)
    return 0


def _tell(console: Console, report: Report, services: Services) -> str:
    """Takes all steps; returns a subscriber to try further commands with."""
    with console.status("Loading the training libraries"):
        from control.demo.plan import STEPS
        from control.demo.story import Story
    story = Story(services.data, services, report)
    take_all(console, report, STEPS, story)
    return story.held_out[0]


def _farewell(console: Console, seconds: float, data: Path, subscriber: str) -> None:
    """What to do next, as commands; the last line alone keeps the result running."""
    from control.demo.churn import ENTITY, MODEL

    command, where = _interlock(), f"--data {quote(str(data))}"
    console.print(f"\nAll of it in {seconds:.0f} s. While the last line runs, ask in another shell:", highlight=False)
    for asked in (
        f"score {MODEL} --entity {ENTITY}={subscriber}",
        f"status {MODEL}",
        f"rollout show {MODEL}",
        f"rollout replay {MODEL}",
    ):
        console.print(f"{command} {asked} {where}", soft_wrap=True, highlight=False, markup=False)
    console.print("It runs until Ctrl-C:", highlight=False)
    console.print(f"{command} up {where}", soft_wrap=True, highlight=False, markup=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m control.demo", description="Shows the whole way of a model.")
    parser.add_argument("--data", type=Path, default=Path(".interlock-demo"), help="directory, emptied first")
    parser.add_argument("--report", type=Path, help="JSON file to write the figures to")
    return parser.parse_args()


def _interlock() -> str:
    """The command as it can be pasted here."""
    beside = Path(sys.executable).parent / "interlock"
    found = which("interlock")
    if found and Path(found).resolve() == beside.resolve():
        return "interlock"
    return quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Leaves the story once; a second Ctrl-C must not interrupt the ending of the services."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
