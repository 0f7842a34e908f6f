"""Runs the sections and writes the report. See README.md beside this file."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks.batch import batch
from benchmarks.judge import judge
from benchmarks.mirror import mirror
from benchmarks.rollback import rollback
from benchmarks.swap import swap
from benchmarks.unary import stages, unary

SECTIONS: Final[dict[str, Callable[[bool], dict[str, Any]]]] = {
    "unary": unary,
    "batch": batch,
    "stages": stages,
    "swap": swap,
    "mirror": mirror,
    "judge": judge,
    "rollback": rollback,
}


def run(
    only: Annotated[str, typer.Option(help="Sections to run, separated by commas; all by default.")] = "",
    full: Annotated[bool, typer.Option("--full", help="The long forms.")] = False,
    report: Annotated[Path | None, typer.Option(help="File for the report, JSON.")] = None,
) -> None:
    """Measures Interlock as ratios within one run."""
    wanted = [name for name in only.split(",") if name] or list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        raise typer.BadParameter(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    console, found = Console(), {}
    for name in wanted:
        started = time.monotonic()
        found[name] = SECTIONS[name](full) | {"machine": _machine(), "full": full}
        console.print(f"[bold]{name}[/bold] ({time.monotonic() - started:.0f} s)")
        console.print_json(data=found[name])
        if report is not None:
            report.write_text(json.dumps(found, indent=2) + "\n")


def _machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    typer.run(run)
