"""The generated pages say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

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
