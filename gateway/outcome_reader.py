"""The outcome logs of all workers, as another process reads them: `gateway.outcome_log` says what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gateway.outcome_log import HEAD_BYTES, records, segments, serial_of


class Place(NamedTuple):
    """Where a reader of one worker's log is."""

    serial: int
    """Of the segment; 0 before the first."""
    offset: int
    """Of the next record in it; 0 is its beginning."""


BEGINNING: Final = Place(0, 0)


class OutcomeReader:
    """Reads the logs of all workers below a directory, each from its place or else from its beginning."""

    def __init__(self, directory: Path, places: Mapping[str, Sequence[int]] | None = None) -> None:
        self.directory = directory
        self.places = {name: Place(*place) for name, place in (places or {}).items()}

    def poll(self) -> Iterator[bytes]:
        """Yields the records that were appended since the last poll, in each worker's order."""
        for directory in sorted(self.directory.glob("worker-*")):
            yield from self._poll_worker(directory)

    def remove_read(self) -> None:
        """Removes the segments behind the reader's places. To be called once what was read is safe elsewhere."""
        for name, place in self.places.items():
            for path in segments(self.directory / name):
                if serial_of(path) < place.serial:
                    path.unlink(missing_ok=True)

    def _poll_worker(self, directory: Path) -> Iterator[bytes]:
        # A segment is complete once a newer one is there, so the list is made before any of them is read.
        found = segments(directory)
        if found and serial_of(found[-1]) < self.places.get(directory.name, BEGINNING).serial:
            self.places[directory.name] = BEGINNING  # somebody has removed the log, and its numbers begin anew
        for path in found:
            serial, place = serial_of(path), self.places.get(directory.name, BEGINNING)
            if serial < place.serial:
                continue
            start = max(place.offset if serial == place.serial else 0, len(HEAD_BYTES))
            for record, end in records(_behind(path, start)):
                self.places[directory.name] = Place(serial, start + end)
                yield record


def _behind(path: Path, start: int) -> bytes:
    """The segment from an offset on; nothing where its head is not whole."""
    with path.open("rb") as file:
        if file.read(len(HEAD_BYTES)) != HEAD_BYTES:
            return b""
        file.seek(start)
        return file.read()
