"""The evidence log: what was counted, and how far the journal was read for it, both in one append or not at all.

A restart goes on exactly where the log ends, so that nothing counts twice and nothing is forgotten: forgotten evidence
would spend the risk of a false rollback again.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.evidence.count import Unit

MAGIC: Final = b"ILKEVID\1"
FRAME: Final = struct.Struct("<II")
"""Length and checksum of the rest."""
HEAD: Final = struct.Struct("<II")
"""Units, bytes of the state, which follows them as JSON."""
RECORD: Final = struct.Struct("<QQHHBBBB")
"""Rollout, entity hash, weight, step, kind, arm, bad, score bin."""
SYNC_NS: Final = 250_000_000
"""How often what was appended is forced to the disk: a killed process loses nothing, a power cut a moment."""


class Recalled(NamedTuple):
    """What a log held."""

    units: dict[int, list[Unit]]
    """By rollout, in the order in which they were counted."""
    state: dict[str, Any]
    """As it was appended last."""


class EvidenceLog:
    """One file. Only the newest state counts, and all units do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recalled, good = _read(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, good)
        os.lseek(self._file, good, os.SEEK_SET)
        if not good:
            os.write(self._file, MAGIC)
        self._synced_ns = 0

    def append(self, units: Sequence[tuple[int, Unit]], state: Mapping[str, Any]) -> None:
        """Appends units of rollouts and the state with which they were counted."""
        os.write(self._file, _frame(units, state))
        now_ns = time.monotonic_ns()
        if now_ns > self._synced_ns + SYNC_NS:
            self._synced_ns = now_ns
            os.fdatasync(self._file)

    def compact(self, units: Mapping[int, Iterable[Unit]], state: Mapping[str, Any]) -> None:
        """Replaces the file by one with these units only: those of rollouts that are over go."""
        fresh = self.path.with_suffix(".new")
        flat = [(rollout_id, unit) for rollout_id, found in units.items() for unit in found]
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(MAGIC + _frame(flat, state))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.path)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR)
        os.lseek(self._file, 0, os.SEEK_END)


def _frame(units: Sequence[tuple[int, Unit]], state: Mapping[str, Any]) -> bytes:
    text = json.dumps(state).encode()
    records = b"".join(
        RECORD.pack(
            rollout_id,
            unit.entity_hash,
            unit.weight_bps,
            unit.step,
            unit.kind,
            unit.challenger,
            unit.bad,
            unit.score_bin,
        )
        for rollout_id, unit in units
    )
    body = HEAD.pack(len(units), len(text)) + records + text
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def _read(path: Path) -> tuple[Recalled, int]:
    """What the file holds, and up to where it is whole: a torn end was never counted."""
    units: dict[int, list[Unit]] = {}
    state: dict[str, Any] = {}
    raw = path.read_bytes() if path.exists() else b""
    if not raw.startswith(MAGIC):
        return Recalled(units, state), 0
    at = len(MAGIC)
    while at + FRAME.size <= len(raw):
        length, crc = FRAME.unpack_from(raw, at)
        body = raw[at + FRAME.size : at + FRAME.size + length]
        if len(body) < length or zlib.crc32(body) != crc:
            break
        n, size = HEAD.unpack_from(body)
        for index in range(n):
            rollout_id, entity, weight, step, kind, arm, bad, bin_ = RECORD.unpack_from(
                body, HEAD.size + index * RECORD.size
            )
            units.setdefault(rollout_id, []).append(Unit(kind, entity, bool(arm), weight, step, bad, bin_))
        state = json.loads(body[len(body) - size :])
        at += FRAME.size + length
    return Recalled(units, state), at
