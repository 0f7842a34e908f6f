"""Boards: what each process of the gateway says of itself, in a small memory-mapped file that the others read."""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any, Final

SIZE_BYTES: Final = 1 << 18
BEAT: Final = "observer-beat.board"
"""The observer's sign of life: apart from its figures, because workers look at it all the time."""
FRAME: Final = struct.Struct("<II")
TRIES: Final = 5
PATIENCE_NS: Final = 5_000_000_000
"""Age of a heartbeat at which a process counts as hung: ten times the pause between two."""


class Board:
    """A process's own board. Written whole, and read whole or not at all."""

    def __init__(self, path: Path, size_bytes: int = SIZE_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.posix_fallocate(descriptor, 0, size_bytes)
        self._map = mmap.mmap(descriptor, size_bytes)
        os.close(descriptor)
        fresh.rename(path)

    def write(self, facts: dict[str, Any]) -> None:
        """Replaces what the board says; raises ValueError for more than it holds."""
        text = json.dumps(facts, separators=(",", ":")).encode()
        if len(text) + FRAME.size > len(self._map):
            raise ValueError(f"{len(text)} bytes do not fit on a board")
        self._map[FRAME.size : FRAME.size + len(text)] = text
        self._map[: FRAME.size] = FRAME.pack(len(text), zlib.crc32(text))


class BoardReader:
    """Reads one board again and again, and parses it only when it says something new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._frame = b""
        self._facts: dict[str, Any] | None = None

    def read(self) -> dict[str, Any] | None:
        """What the board says; None where there is none, or where it was being written at every look."""
        for _ in range(TRIES):
            try:
                descriptor = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                self._frame, self._facts = b"", None
                return None
            try:
                if self._look(descriptor):
                    return self._facts
            finally:
                os.close(descriptor)
        return None

    def _look(self, descriptor: int) -> bool:
        frame = os.pread(descriptor, FRAME.size, 0)
        if len(frame) < FRAME.size:
            return False
        if frame == self._frame:
            return True
        length, crc = FRAME.unpack(frame)
        text = os.pread(descriptor, length, FRAME.size)
        if not length or zlib.crc32(text) != crc:
            return False
        self._frame, self._facts = frame, json.loads(text)
        return True


class Boards:
    """The boards of one gateway, as another process of it reads them. For one thread."""

    def __init__(self, run_path: Path, workers: int) -> None:
        self._workers = [BoardReader(run_path / f"worker-{index}.board") for index in range(workers)]
        self._supervisor = BoardReader(run_path / "supervisor.board")
        self._observer = BoardReader(run_path / "observer.board")
        self._materializer = BoardReader(run_path / "materializer.board")
        self._exporter = BoardReader(run_path / "exporter.board")
        self._recorder = BoardReader(run_path / "recorder.board")
        self._mirror = BoardReader(run_path / "mirror.board")

    def workers(self) -> dict[int, dict[str, Any]]:
        """By index, what the workers say that run; one that has not stirred for a while is not among them."""
        oldest_ns = time.monotonic_ns() - PATIENCE_NS
        found = {index: reader.read() for index, reader in enumerate(self._workers)}
        return {index: said for index, said in found.items() if said and said["heartbeat_ns"] > oldest_ns}

    def revision(self) -> int:
        """The newest revision that is in force in every worker that takes calls; 0 while none does."""
        return min((said["revision"] for said in self.workers().values() if said["ready"]), default=0)

    def supervisor(self) -> dict[str, Any]:
        """What the supervisor says; empty before it said anything."""
        return self._supervisor.read() or {}

    def observer(self) -> dict[str, Any]:
        """What the observer says; what it said last, but not connected, if it does not stir; empty before that."""
        said = self._observer.read() or {}
        if said and (
            said["heartbeat_ns"] < time.monotonic_ns() - PATIENCE_NS or self._is_of_a_former(said.get("pid", 0))
        ):
            return said | {"connected": False, "refused_history_id": ""}
        return said

    def _is_of_a_former(self, pid: int) -> bool:
        """Whether an observer that is no more wrote its board: the figures are kept, what it saw is not."""
        children = self.supervisor().get("children", ())
        return any(child["role"] == "observer" and child["pid"] != pid for child in children)

    def materializer(self) -> dict[str, Any]:
        """What the materializer says; empty while there is none."""
        return self._materializer.read() or {}

    def exporter(self) -> dict[str, Any]:
        """What the exporter says; empty while there is none."""
        return self._exporter.read() or {}

    def recorder(self) -> dict[str, Any]:
        """What the recorder says; empty while there is none."""
        return self._recorder.read() or {}

    def mirror(self) -> dict[str, Any]:
        """What the mirror says; empty while there is none."""
        return self._mirror.read() or {}


def read_board(path: Path) -> dict[str, Any] | None:
    """What the board says; None where there is none, or where it was being written at every look."""
    return BoardReader(path).read()
