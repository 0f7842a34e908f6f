"""The journal, as any other process reads it: `gateway.journal` says what it is."""

from __future__ import annotations

import mmap
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.journal import FRAME, HEAD, LABEL_BYTES, ROW, SEGMENT_BYTES, Block, serial_of

LOOK_NS: Final = 1_000_000_000
"""How often a reader looks for segments that were made anew."""


class Position(NamedTuple):
    """Where a reader of one worker's journal is."""

    serial: int
    """Of the use of the segment; 0 before the first."""
    offset: int
    """Of the next block in it."""
    prefix: str
    """The life of the worker that wrote the last block."""
    next_row: int
    """The number after that block's last row."""


START: Final = Position(0, SEGMENT_BYTES, "", 0)


class JournalReader:
    """Reads the journals of all workers below a directory, each from its position or else from its oldest block."""

    def __init__(self, directory: Path, positions: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.directory = directory
        self._workers = {
            name: _WorkerReader(directory / name, Position(*position)) for name, position in (positions or {}).items()
        }

    @property
    def lost(self) -> int:
        """Rows that were overwritten or damaged before they were read, since this reader was made."""
        return sum(reader.lost for reader in self._workers.values())

    @property
    def positions(self) -> dict[str, Position]:
        """Where the reader is in each worker's journal; another reader goes on from there."""
        return {name: reader.position for name, reader in self._workers.items()}

    def skip(self) -> None:
        """Goes to the end of every journal; what was not read before that counts as lost where reading had begun."""
        for path in sorted(self.directory.glob("worker-*")):
            reader = self._workers.get(path.name) or self._workers.setdefault(path.name, _WorkerReader(path, START))
            reader.skip()

    def poll(self, limit: int = 1 << 30) -> Iterator[Block]:
        """Yields what was appended since the last poll, in order and at most `limit` blocks for each worker."""
        for path in sorted(self.directory.glob("worker-*")):
            reader = self._workers.get(path.name) or self._workers.setdefault(path.name, _WorkerReader(path, START))
            for _ in range(limit):
                block = reader.take()
                if block is None:
                    break
                yield block


class _WorkerReader:
    """Reads one worker's ring."""

    def __init__(self, directory: Path, position: Position) -> None:
        self.directory = directory
        self.position = position
        self.lost = 0
        self._segment: mmap.mmap | None = None
        self._maps: dict[Path, tuple[int, mmap.mmap]] = {}
        self._looked_ns = 0

    def skip(self) -> None:
        """Goes to the end so far, by way of the newest segment alone."""
        if current := self._current():
            self._move(current, max(current))
            while self.take() is not None:
                pass

    def take(self) -> Block | None:
        """The next block, or None at the end so far."""
        segment = self._segment or self._find()
        while segment is not None:
            block, end = self._read(segment)
            if block is not None:
                self._count_lost(block)
                next_row = block.first_row + len(block.rows)
                self.position = Position(self.position.serial, end, block.prefix, next_row)
                return block
            segment = self._next(segment)
        return None

    def _find(self) -> mmap.mmap | None:
        """The segment at the reader's position; the oldest one where that was overwritten."""
        current = self._current()
        if not current:
            return None
        serial = self.position.serial
        return self._move(current, serial if serial in current else min(current))

    def _next(self, segment: mmap.mmap) -> mmap.mmap | None:
        """Where to read on at the end of a segment; None where there is nothing newer."""
        current = self._current()
        serial = self.position.serial
        newer = [other for other in current if other > serial]
        if not newer:
            # Segments made anew count their uses from 1 again, and may have come to the number that we are at.
            if not current or current.get(serial) is segment:
                return None
            self.position = self.position._replace(serial=0)
            return self._move(current, min(current))
        if serial_of(segment) == serial and self._read(segment)[0] is not None:
            return segment  # appended between our look and the writer's move to the next segment
        return self._move(current, min(newer))

    def _move(self, current: Mapping[int, mmap.mmap], serial: int) -> mmap.mmap:
        if serial != self.position.serial:
            self.position = self.position._replace(serial=serial, offset=SEGMENT_BYTES)
        self._segment = current[serial]
        return self._segment

    def _read(self, segment: mmap.mmap) -> tuple[Block | None, int]:
        """The block at the reader's position and where it ends; None at the end, or for one that is not whole."""
        start = self.position.offset
        if start + FRAME.size > len(segment):
            return None, 0
        length, crc = FRAME.unpack_from(segment, start)
        end = start + length
        if length < FRAME.size + HEAD.size or end > len(segment):
            return None, 0
        body = segment[start + FRAME.size : end]
        if zlib.crc32(body) != crc or int.from_bytes(body[:8], "little") != self.position.serial:
            return None, 0
        return _parse(body), -(-end // 8) * 8

    def _count_lost(self, block: Block) -> None:
        if block.prefix == self.position.prefix:
            self.lost += max(0, block.first_row - self.position.next_row)
        elif self.position.prefix:
            self.lost += block.first_row  # a new life whose first rows were overwritten before we saw them

    def _current(self) -> dict[int, mmap.mmap]:
        """The segments in use, by serial number."""
        now_ns = time.monotonic_ns()
        if not self._maps or now_ns > self._looked_ns + LOOK_NS:
            self._looked_ns = now_ns
            self._map()
        return {serial: segment for _, segment in self._maps.values() if (serial := serial_of(segment))}

    def _map(self) -> None:
        """Maps the segments that are there now."""
        maps: dict[Path, tuple[int, mmap.mmap]] = {}
        for path in self.directory.glob("segment-*"):
            try:
                stat = path.stat()
                known = self._maps.get(path)
                if known is None or known[0] != stat.st_ino:
                    if stat.st_size < SEGMENT_BYTES:
                        continue
                    with path.open("rb") as file:
                        known = stat.st_ino, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                maps[path] = known
            except FileNotFoundError:
                continue
        self._maps = maps


def _parse(body: bytes) -> Block:
    _, first_row, time_ns, revision, version, feature_sequence, prefix, rollout_id, *rest = HEAD.unpack_from(body)
    *stages_ns, n, notes_length, step, model_length, parts = rest
    at = HEAD.size
    model = body[at : at + model_length].decode()
    at += model_length
    lengths: tuple[int, ...] = struct.unpack_from(f"<{parts}I", body, at)
    at += 4 * parts
    labels = [body[start : start + LABEL_BYTES] for start in range(at, at + LABEL_BYTES * parts, LABEL_BYTES)]
    at += LABEL_BYTES * parts
    rows: npt.NDArray[Any] = np.frombuffer(body, ROW, n, at)
    at += ROW.itemsize * n
    payload = []
    for length in lengths:
        payload.append(body[at : at + length])
        at += length
    return Block(
        model,
        version,
        revision,
        feature_sequence,
        time_ns,
        tuple(stages_ns),
        rows,
        payload,
        labels,
        rollout_id,
        step,
        body[at : at + notes_length],
        prefix.hex(),
        first_row,
    )
