"""The installation of most stories; one that needs another has its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.installation import Installation


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    """An installation whose first version answers."""
    here = Installation(tmp_path)
    with here.control():
        here.materialize()
        here.promote_first()
        yield here
