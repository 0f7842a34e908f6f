"""Boards: what each process of the gateway says of itself, in a small memory-mapped file that the others read."""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Final

SIZE_BYTES: Final = 1 << 18
FRAME: Final = struct.Struct("<II")
TRIES: Final = 5


class Board:
    """A process's own board. Written whole, and read whole or not at all."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        self._map = mmap.mmap(descriptor, SIZE_BYTES)
        os.close(descriptor)
        fresh.rename(path)

    def write(self, facts: dict[str, Any]) -> None:
        """Replaces what the board says."""
        text = json.dumps(facts, separators=(",", ":")).encode()
        if len(text) + FRAME.size > SIZE_BYTES:
            raise ValueError(f"{len(text)} bytes do not fit on a board")
        self._map[FRAME.size : FRAME.size + len(text)] = text
        self._map[: FRAME.size] = FRAME.pack(len(text), zlib.crc32(text))


def read_board(path: Path) -> dict[str, Any] | None:
    """What the board says; None where there is none, or where it was being written at every look."""
    for _ in range(TRIES):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        if len(raw) < FRAME.size:
            continue
        length, crc = FRAME.unpack_from(raw)
        text = raw[FRAME.size : FRAME.size + length]
        if length and zlib.crc32(text) == crc:
            found: dict[str, Any] = json.loads(text)
            return found
    return None
