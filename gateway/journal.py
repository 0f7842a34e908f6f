"""The journal, as its worker writes it: what every other process knows of the rows that were scored.

Each worker appends to its own ring of preallocated, memory-mapped segments; any number of processes read. The unit of
appending is a block: the rows that one version answered in one run, as an array, so that writing and reading cost
little a row. A block's checksum covers the serial number of its segment's use, so that a reader never takes a torn or
an overwritten block for a good one; rows overwritten before they were read are counted as lost, by the gap in their
numbers. What was appended survives kill -9, not a power cut.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.alerts import Alert, AlertText, alert

FORMAT: Final = 2
MAGIC: Final = b"ILKJRNL\0"
SEGMENT: Final = struct.Struct("<8sIIQ")
"""Magic, format, bytes of the segment, serial number of its use (0 before the first)."""
SEGMENT_BYTES: Final = 64
FRAME: Final = struct.Struct("<II")
"""Length of the block with this frame, checksum of the rest. A length of 0 is the end, so far."""
HEAD: Final = struct.Struct("<QQqQqQ8sQ6IIIHHH")
"""Serial, first row, time_ns, revision, version, feature sequence, prefix, rollout, stages_ns, rows, bytes of
the notes, step, bytes of the model's name, parts of the payload."""
LABEL_BYTES: Final = 8
RETRY_NS: Final = 10_000_000_000
"""How often a writer without segments tries to make them."""
STAGES: Final = ("wire", "route", "features", "infer", "record", "reply")

ROW: Final = np.dtype(
    [
        ("entity_hash", "<u8"),
        ("score", "<f8"),
        ("feature_age_ms", "<i8"),
        ("decision", "<i4"),
        ("weight_bps", "<u2"),
        ("reason", "<u2"),
        ("defaulted", "<u2"),
        ("flags", "u1"),
        ("arm", "u1"),
        ("answered_by", "u1"),
        ("rollout_flags", "u1"),
        ("spare", "u1", (2,)),
    ]
)
"""One row. `feature_age_ms` is -1 without stored features; `decision` is the index of the label, -1 for none; `reason`
is 0 for a row that was answered, else one more than the place of its Reason in the catalogue. `weight_bps` is the
challenger's probability when the row was assigned, 0 without a rollout; `arm` is what it was assigned to, `answered_by`
the arm whose version answered. An `entity_hash` of 0 stands for no entity."""

FLAG_UNKNOWN: Final = 1
FLAG_STALE: Final = 2
"""Bits of `flags`: an entity has no stored features at all; a default stands for a stale value. The bits above them are
those of request.Mark."""


ROLLOUT_FOLLOWS: Final = 1
ROLLOUT_REPEATED: Final = 2
ROLLOUT_STANDS_IN: Final = 4
ROLLOUT_SLOW: Final = 8
"""Bits of `rollout_flags`, for rows of a rollout: the row shared the fate of another row of its call or run, and is no
evidence of its own; it is the challenger's attempt at a row that the control was then asked for, and no caller got it;
it is the control's answer to such a row; it took longer than a challenger would have been given."""


class Block(NamedTuple):
    """The rows that one version answered in one run."""

    model: str
    version: int
    revision: int
    feature_sequence: int
    time_ns: int
    """UTC, at the end of the run."""
    stages_ns: tuple[int, ...]
    """How long each of STAGES took for the whole batch; `record` and `reply` are the previous batch's, since this
    block is written before they are done."""
    rows: npt.NDArray[np.void]
    """Of type ROW."""
    payload: Sequence[bytes]
    """The raw feature rows of each view, then the values of each request-time input."""
    labels: Sequence[bytes] = ()
    """Of 8 bytes, one for each part of the payload that is a view's rows: the view's key in the online store."""
    rollout_id: int = 0
    """The rollout that assigned the rows; 0 for rows that prove nothing about one."""
    step: int = 0
    """The rollout's step in force."""
    notes: bytes = b""
    """What few blocks have, as JSON; empty for none. `faults`: by reason, an example of what was said. `traces`: for
    each call that bears a trace context, its first row, the row after its last, and the traceparent."""
    prefix: str = ""
    """Names the worker's life; with a row's number, the prediction's id. Set by the writer."""
    first_row: int = 0
    """Number of the first row in this worker's life. Set by the writer."""


class JournalWriter:
    """One worker's journal: `total_bytes` of disk in segments of `segment_bytes`, all reserved here.

    Where the disk has no room the writer counts `unjournalled` rows instead of failing, and `recover` tries again.
    """

    def __init__(self, directory: Path, total_bytes: int, segment_bytes: int = 16 << 20) -> None:
        self.directory = directory
        self.segment_bytes = min(segment_bytes, total_bytes // 2) // 8 * 8
        self.count = total_bytes // self.segment_bytes
        self.raw_prefix = secrets.token_bytes(8)
        self.prefix = self.raw_prefix.hex()
        self.next_row = 0
        self.unjournalled = 0
        self.problem: AlertText | None = None
        self._segments: list[mmap.mmap] = []
        self._tried_ns = 0
        self._serial = self._current = self._offset = 0
        self.recover()

    def recover(self) -> None:
        """Reserves the segments if they are not yet, at most once in ten seconds."""
        if self._segments or (self._tried_ns and time.monotonic_ns() < self._tried_ns + RETRY_NS):
            return
        self._tried_ns = time.monotonic_ns()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._drop_misfits()
            paths = [self.directory / f"segment-{index:04d}" for index in range(self.count)]
            segments = [_reserve(path, self.segment_bytes) for path in paths]
        except OSError as error:
            words = f"the journal cannot be kept: {os.strerror(error.errno or errno.EIO)}"
            self.problem = alert(Alert.JOURNAL_NOT_KEPT, words)
            return
        self._segments, self.problem = segments, None
        serials = [serial_of(segment) for segment in segments]
        self._serial = max(serials)
        self._current = serials.index(self._serial)
        self._advance()

    def append(self, block: Block) -> None:
        """Appends a block; its prefix and first row are the writer's."""
        n = len(block.rows)
        model = block.model.encode()
        head = HEAD.pack(
            self._serial if self._segments else 0,
            self.next_row,
            block.time_ns,
            block.revision,
            block.version,
            block.feature_sequence,
            self.raw_prefix,
            block.rollout_id,
            *block.stages_ns,
            n,
            len(block.notes),
            block.step,
            len(model),
            len(block.payload),
        )
        lengths = struct.pack(f"<{len(block.payload)}I", *map(len, block.payload))
        labels = b"".join(block.labels).ljust(LABEL_BYTES * len(block.payload), b"\0")
        body = b"".join((head, model, lengths, labels, block.rows.tobytes(), *block.payload, block.notes))
        self.next_row += n
        if not self._write(body):
            self.unjournalled += n

    def _write(self, body: bytes) -> bool:
        length = FRAME.size + len(body)
        padded = -(-length // 8) * 8
        if not self._segments or SEGMENT_BYTES + padded + FRAME.size > self.segment_bytes:
            return False
        if self._offset + padded + FRAME.size > self.segment_bytes:
            self._advance()
            body = struct.pack("<Q", self._serial) + body[8:]
        segment, start = self._segments[self._current], self._offset
        segment[start + FRAME.size : start + length] = body
        # The end mark of what follows, then the frame: a reader sees the block when it is whole, or not at all.
        segment[start + padded : start + padded + FRAME.size] = bytes(FRAME.size)
        segment[start : start + FRAME.size] = FRAME.pack(length, zlib.crc32(body))
        self._offset = start + padded
        return True

    def _advance(self) -> None:
        """Begins the oldest segment anew."""
        self._current = (self._current + 1) % len(self._segments)
        self._serial += 1
        segment = self._segments[self._current]
        segment[SEGMENT_BYTES : SEGMENT_BYTES + FRAME.size] = bytes(FRAME.size)
        segment[: SEGMENT.size] = SEGMENT.pack(MAGIC, FORMAT, self.segment_bytes, self._serial)
        self._offset = SEGMENT_BYTES

    def _drop_misfits(self) -> None:
        """Removes segments that another configuration left."""
        for index, path in enumerate(sorted(self.directory.glob("segment-*"))):
            if index >= self.count or path.stat().st_size != self.segment_bytes:
                path.unlink()


def _reserve(path: Path, size: int) -> mmap.mmap:
    """Maps a segment whose every byte is allocated: a sparse one would be a SIGBUS on a full disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def serial_of(segment: mmap.mmap) -> int:
    """The serial number of the segment's present use; 0 before the first."""
    magic, version, _, serial = SEGMENT.unpack_from(segment)
    return int(serial) if magic == MAGIC and version == FORMAT else 0
