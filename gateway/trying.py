"""A mark that a process leaves in shared memory while it does something with a challenger that may end it.

Whoever finds the process dead or hung reads there which rollout it was about. Marking costs a few hundred nanoseconds.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

SIZE: Final = 8


class TryMark:
    """The mark of one process; without a path, one that nobody reads."""

    def __init__(self, path: Path | None = None) -> None:
        self._map: mmap.mmap | bytearray = bytearray(SIZE)
        if path is not None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.ftruncate(descriptor, mmap.PAGESIZE)
            self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
            os.close(descriptor)

    def begin(self, rollout_id: int) -> None:
        """Marks that something of a rollout is under way."""
        self._map[:SIZE] = rollout_id.to_bytes(SIZE, "little")

    def end(self) -> None:
        """Marks that it is over."""
        self._map[:SIZE] = bytes(SIZE)


UNMARKED: Final = TryMark()


def tried(path: Path) -> int:
    """The rollout that the mark names; 0 for none."""
    try:
        return int.from_bytes(path.read_bytes()[:SIZE], "little")
    except FileNotFoundError:
        return 0
