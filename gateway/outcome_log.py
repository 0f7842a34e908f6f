"""The outcome log, as its worker writes it: what callers report of predictions, on disk before they are answered.

Each worker appends to its own segments, numbered files that are never written again once a newer one is begun. A record
has its length and its checksum before it; a segment ends at the first record that is not whole. Nothing is appended
behind a failure: what may be half written is cut off, and the next segment is begun, so that no place in a segment ever
holds two records, one after the other.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from gateway.artifacts import make_directory, sync_directory
from gateway.contract.errors import Fault, Reason

FORMAT: Final = 1
MAGIC: Final = b"ILKOUTC\0"
HEADER: Final = struct.Struct("<8sII")
"""Magic, format, zero."""
FRAME: Final = struct.Struct("<II")
"""Length of the record, checksum of it."""
HEAD_BYTES: Final = HEADER.pack(MAGIC, FORMAT, 0)
SEGMENT_BYTES: Final = 16 << 20


class OutcomeLog:
    """One worker's log, for one thread. It takes `limit_bytes` of disk at most, until a reader removes segments."""

    def __init__(self, directory: Path, limit_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.segment_bytes = min(segment_bytes, limit_bytes // 2)
        self.problem = ""
        """Why the last records were not kept; empty where they were."""
        self._file: FileIO | None = None
        self._end = 0
        self._before_bytes = 0
        with contextlib.suppress(OSError):  # said again by the first append
            if found := segments(directory):
                cut(found[-1])
            self._before_bytes = _size(segments(directory))

    def append(self, records: Sequence[bytes]) -> None:
        """Keeps the records, all or none: they are on the disk when it returns. Raises Fault where that cannot be."""
        content = b"".join(FRAME.pack(len(record), zlib.crc32(record)) + record for record in records)
        try:
            self._make_room(len(content))
            _write(self._current(len(content)), content)
        except OSError as error:
            self._abandon()
            self.problem = f"outcomes cannot be kept: {os.strerror(error.errno or 0)}"
        except Fault as fault:
            self.problem = fault.message
        else:
            self._end += len(content)
            self.problem = ""
            return
        raise Fault(
            Reason.OUTCOMES_NOT_KEPT,
            f"{self.problem}; nothing of this call counts as recorded: repeat it later, with the same ids",
        )

    def close(self) -> None:
        """Closes the segment; there is nothing to flush."""
        self._before_bytes, self._end = self._before_bytes + self._end, 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _make_room(self, size: int) -> None:
        """Raises Fault where the log is as large as it may be."""
        if self._before_bytes + self._end + size > self.limit_bytes:
            self._before_bytes = _size(segments(self.directory)) - self._end
            if self._before_bytes + self._end + size > self.limit_bytes:
                raise Fault(
                    Reason.OUTCOMES_NOT_KEPT,
                    f"{self.limit_bytes} bytes of outcomes wait for the recorder, as many as this worker may keep "
                    "(gateway.outcomes_bytes)",
                )

    def _current(self, size: int) -> FileIO:
        if self._file is not None and self._end + size > self.segment_bytes:
            self.close()
        if self._file is None:
            self._file = self._begin()
            self._end = len(HEAD_BYTES)
        return self._file

    def _begin(self) -> FileIO:
        """Makes the next segment, so that it is there after a power cut as well."""
        make_directory(self.directory)
        present = segments(self.directory)
        serial = serial_of(present[-1]) + 1 if present else 1
        path = self.directory / f"segment-{serial:012d}"
        file = FileIO(path, "xb")
        try:
            _write(file, HEAD_BYTES)
            sync_directory(self.directory)
        except OSError:
            file.close()
            path.unlink()
            raise
        return file

    def _abandon(self) -> None:
        """Cuts what may be half written off, and leaves the segment: what a failed fsync has kept is not known."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            self.close()


def _write(file: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
    os.fdatasync(file.fileno())


def _size(paths: Sequence[Path]) -> int:
    """The bytes of files, without those that a reader has just removed."""
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def segments(directory: Path) -> list[Path]:
    """The segments of a log, oldest first."""
    return sorted(directory.glob("segment-*"))


def serial_of(path: Path) -> int:
    """The number of a segment."""
    return int(path.name.removeprefix("segment-"))


def records(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The whole records of what comes behind a segment's head, each with where the next one begins."""
    start = 0
    while start + FRAME.size <= len(content):
        length, checksum = FRAME.unpack_from(content, start)
        end = start + FRAME.size + length
        record = content[start + FRAME.size : end]
        if not length or len(record) < length or zlib.crc32(record) != checksum:
            return
        start = end
        yield record, end


def cut(path: Path) -> None:
    """Cuts off what is behind the last whole record, durably; a segment without a whole head goes altogether."""
    content = path.read_bytes()
    if content[: len(HEAD_BYTES)] != HEAD_BYTES:
        path.unlink()
        return
    end = len(HEAD_BYTES) + max((end for _, end in records(content[len(HEAD_BYTES) :])), default=0)
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
