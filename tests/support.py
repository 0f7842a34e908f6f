"""What tests of both planes share: waiting for what must come, and the scale of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

Found = TypeVar("Found")

STRESS: Final = os.environ.get("STRESS") == "1"
"""Whether this run is the long one; an ordinary run does a tenth."""


def until(predicate: Callable[[], Found], seconds: float = 60.0) -> Found:
    """The predicate's first answer that is true; fails when none came in time."""
    deadline = time.monotonic() + seconds
    while not (found := predicate()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.01)
    return found
