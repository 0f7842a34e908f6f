"""What the mirror is about to do, in a file that outlives it: whatever kills it is not done again."""

from __future__ import annotations

import mmap
import os
import struct
import time
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

LAYOUT: Final = struct.Struct("<QQ8sQQ")
"""What it does (0 for nothing), the rollout, the life of the worker that answered and the row's number in it, and the
process id of the supervisor."""


class Doing(IntEnum):
    """What may end a process."""

    LOADING = 1
    """Loading the shadow."""
    SHADOW = 2
    """Running the shadow on a row."""
    OTHER = 3
    """Running the version that the shadow is compared with."""


class Marked(NamedTuple):
    """What a process was about when it ended."""

    doing: Doing
    rollout_id: int
    prediction_id: str
    """Empty for loading."""
    by_itself: bool
    """Whether the mirror ended alone: else its gateway was ended, and nothing was anybody's fault."""


class Mark:
    """The file, and how long what it says has been going on."""

    def __init__(self, path: Path) -> None:
        self.found = _read(path)
        """What an earlier process left behind; None where it ended in peace."""
        self.doing: Doing | None = None
        self.since_ns = 0
        """Monotonic time since which something is under way; 0 for nothing."""
        self.processor_ns = 0
        """The processor's time of this thread, then."""
        self._supervisor = os.getppid()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
        os.close(descriptor)
        self.end()

    def begin(self, doing: Doing, rollout_id: int, prefix: str = "", row: int = 0) -> None:
        """Says what is done next."""
        life = bytes.fromhex(prefix)
        self._map[: LAYOUT.size] = LAYOUT.pack(doing, rollout_id, life, row, self._supervisor)
        self.doing = doing
        self.processor_ns = time.thread_time_ns()
        self.since_ns = time.monotonic_ns()

    def end(self) -> None:
        """Says that it is done."""
        self.since_ns = 0
        self._map[: LAYOUT.size] = bytes(LAYOUT.size)


def _read(path: Path) -> Marked | None:
    try:
        doing, rollout_id, life, row, supervisor = LAYOUT.unpack(path.read_bytes()[: LAYOUT.size])
    except (FileNotFoundError, struct.error):
        return None
    if not doing:
        return None
    prediction_id = f"{life.hex()}{row:012x}" if any(life) else ""
    return Marked(Doing(doing), rollout_id, prediction_id, supervisor == os.getppid())
