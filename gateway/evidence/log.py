"""The evidence log: what was counted, and how far the journal was read for it, both in one append or not at all.

A restart goes on exactly where the log ends, so that nothing counts twice and nothing is forgotten: forgotten evidence
would spend the risk of a false rollback again.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from gateway.evidence.count import Unit
from gateway.telemetry import log

MAGIC: Final = b"ILKEVID\1"
FRAME: Final = struct.Struct("<II")
"""Length and checksum of the rest."""
HEAD: Final = struct.Struct("<II")
"""Units, bytes of the state, which follows them as JSON."""
RECORD: Final = struct.Struct("<QQHHBBBB")
"""Rollout, entity hash, weight, step, kind, arm, bad, score bin."""
SPARE_BYTES: Final = 16 << 20
"""What the file may hold beside units before it is written anew: with each few of them comes a state."""
SYNC_NS: Final = 250_000_000
"""How often what was appended is forced to the disk: a killed process loses nothing, a power cut a moment."""


class Units:
    """The units of one rollout in the order in which they were counted, as they lie in the log: 24 bytes each."""

    def __init__(self) -> None:
        self.raw = bytearray()

    def __len__(self) -> int:
        return len(self.raw) // RECORD.size

    def __iter__(self) -> Iterator[Unit]:
        return map(_unit, RECORD.iter_unpack(self.raw))

    def part(self, first: int, most: int) -> list[Unit]:
        """At most so many, from a place on."""
        start = first * RECORD.size
        piece = memoryview(self.raw)[start : start + most * RECORD.size]
        return [_unit(record) for record in islice(RECORD.iter_unpack(piece), most)]


class EvidenceLog:
    """One file, and what it holds. Only the newest state counts, and all units do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units: dict[int, Units] = {}
        """By rollout."""
        self.state: dict[str, Any] = {}
        """As it was appended last."""
        self._size = self._recall()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, self._size)
        os.lseek(self._file, self._size, os.SEEK_SET)
        if not self._size:
            self._size = os.write(self._file, MAGIC)
        self._synced_ns = 0
        self._spare_bytes = SPARE_BYTES

    def append(self, units: Sequence[tuple[int, Unit]], state: Mapping[str, Any]) -> None:
        """Appends units of rollouts and the state with which they were counted.

        Raises OSError where the disk refuses: then the file is as it was before.
        """
        records = [(rollout_id, _record(rollout_id, unit)) for rollout_id, unit in units]
        self._write(_frame([record for _, record in records], state))
        for rollout_id, record in records:
            self.units.setdefault(rollout_id, Units()).raw += record
        if self._size > self._spare_bytes + 2 * sum(len(one.raw) for one in self.units.values()):
            self._spare_bytes = SPARE_BYTES if self.compact(state) else self._spare_bytes + SPARE_BYTES

    def forget(self, rollout_ids: Sequence[int], state: Mapping[str, Any]) -> None:
        """Drops the units of rollouts that are over."""
        for rollout_id in rollout_ids:
            self.units.pop(rollout_id, None)
        self.compact(state)

    def compact(self, state: Mapping[str, Any]) -> bool:
        """Replaces the file by one with the units of now only; False where the disk refuses, and it stays as it is."""
        fresh = self.path.with_suffix(".new")
        frame = _frame([bytes(one.raw) for one in self.units.values()], state)
        try:
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(MAGIC + frame)
                file.flush()
                os.fsync(descriptor)
            fresh.rename(self.path)
        except OSError as error:
            log(logging.ERROR, "evidence_log_not_compacted", error=repr(error))
            return False
        os.close(self._file)
        self._file, self._size = descriptor, len(MAGIC) + len(frame)
        return True

    def _write(self, frame: bytes) -> None:
        left = memoryview(frame)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            now_ns = time.monotonic_ns()
            if now_ns > self._synced_ns + SYNC_NS:
                self._synced_ns = now_ns
                os.fdatasync(self._file)
        except OSError:  # what follows a torn frame is never read
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(frame)

    def _recall(self) -> int:
        """Reads the file, and says up to where it is whole: a torn end was never counted."""
        raw = self.path.read_bytes() if self.path.exists() else b""
        at = len(MAGIC) if raw.startswith(MAGIC) else 0
        while at and at + FRAME.size <= len(raw):
            length, crc = FRAME.unpack_from(raw, at)
            body = memoryview(raw)[at + FRAME.size : at + FRAME.size + length]
            if len(body) < length or zlib.crc32(body) != crc:
                break
            n, size = HEAD.unpack_from(body)
            for index in range(n):
                record = body[HEAD.size + index * RECORD.size :][: RECORD.size]
                self.units.setdefault(int.from_bytes(record[:8], "little"), Units()).raw += record
            self.state = json.loads(bytes(body[len(body) - size :]))
            at += FRAME.size + length
        if at < len(raw):
            log(logging.WARNING, "evidence_log_cut", at_bytes=at, bytes=len(raw))
        return at


def _record(rollout_id: int, unit: Unit) -> bytes:
    return RECORD.pack(
        rollout_id,
        unit.entity_hash,
        unit.weight_bps,
        unit.step,
        unit.kind,
        unit.challenger,
        unit.bad,
        unit.score_bin,
    )


def _unit(record: tuple[Any, ...]) -> Unit:
    _, entity, weight, step, kind, arm, bad, bin_ = record
    return Unit(kind, entity, bool(arm), weight, step, bad, bin_)


def _frame(records: Sequence[bytes], state: Mapping[str, Any]) -> bytes:
    text, units = json.dumps(state).encode(), b"".join(records)
    body = HEAD.pack(len(units) // RECORD.size, len(text)) + units + text
    return FRAME.pack(len(body), zlib.crc32(body)) + body
