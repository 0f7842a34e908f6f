"""The generated pages say what the code says."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from control.cli.__main__ import app

DOCS = Path(__file__).parents[2] / "docs"
PAGES = runpy.run_path(str(DOCS / "generate.py"))["pages"]()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name: str) -> None:
    """A setting or a reason that changed was written to its page as well."""
    assert (DOCS / name).read_text() == PAGES[name], "run `.venv/bin/python docs/generate.py`"


def test_every_setting_is_described() -> None:
    """No key without a sentence that says what it is."""
    assert not [
        line for line in PAGES["configuration.md"].splitlines() if line.startswith("|") and line.endswith("|  |")
    ]


def test_every_metric_has_a_row_on_its_page() -> None:
    """And no row is of a metric that is gone."""
    source = (DOCS.parent / "gateway" / "metrics.py").read_text()
    rows = [line for line in (DOCS / "observability.md").read_text().splitlines() if line.startswith("| `interlock_")]
    described = {name for row in rows for name in re.findall(r"`(interlock_[a-z_]+)`", row.split("|")[1])}
    assert described == set(re.findall(r'"(interlock_[a-z_]+)"', source))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `interlock …` that a page shows, in its text or as lines of a shell."""
    content = page.read_text()
    lines = re.findall(r"^(?:\$ )?interlock (?!=)(.+)$", content, re.MULTILINE)
    for found in [*lines, *re.findall(r"`interlock ([^`]+)`", content)]:
        yield shlex.split(found.split(" > ")[0], comments=True)


def not_understood(words: list[str]) -> str:
    """The first word that no command and no option is called; empty where all are known."""
    at: Any = typer.main.get_command(app)
    words = words.copy()
    while hasattr(at, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in at.commands:
            return name
        at = at.commands[name]
    if at.name in {"control", "gateway"}:
        return ""  # flags are the service's own
    known = {option for parameter in at.params for option in parameter.opts} | {"--help", "-h"}
    return next((word for word in words if word.startswith("-") and word.split("=")[0] not in known), "")


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_every_command_on_a_page_is_one(page: Path) -> None:
    """As are its options."""
    assert not {" ".join(words): unknown for words in commands(page) if (unknown := not_understood(words))}
