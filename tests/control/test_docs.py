"""The generated pages say what the code says."""

from __future__ import annotations

import re
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


def test_every_metric_has_a_row_on_its_page() -> None:
    """And no row is of a metric that is gone."""
    source = (DOCS.parent / "gateway" / "metrics.py").read_text()
    rows = [line for line in (DOCS / "observability.md").read_text().splitlines() if line.startswith("| `interlock_")]
    described = {name for row in rows for name in re.findall(r"`(interlock_[a-z_]+)`", row.split("|")[1])}
    assert described == set(re.findall(r'"(interlock_[a-z_]+)"', source))
