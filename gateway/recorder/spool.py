"""From a reader's positions to files of the lake, exactly once, whatever is killed when.

Files are written into a spool first. Then one atomic write of the state says: these positions are read, and these
files belong to them. Then the files are put into the lake and leave the spool. Killed before the state is written, the
rows are read again and the files in the spool are nobody's; killed after it, the files are put into the lake by whoever
comes next, under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from gateway.artifacts import make_directory, replace_durably, sync, sync_directory
from gateway.recorder.lake import Lake

FORMAT: Final = 1


class Spool:
    """A recorder's state and its files on the way to the lake."""

    def __init__(self, directory: Path, state: Path, lake: Lake) -> None:
        self.directory = directory
        self.lake = lake
        self.facts: dict[str, Any] = {}
        """What was committed with the positions."""
        self._state = state
        self._sequence = 1
        self._pending: dict[str, str] = {}
        make_directory(directory)
        self._recall()
        for path in set(directory.iterdir()) - {directory / name for name in self._pending}:
            path.unlink()

    def commit(self, tables: Mapping[str, pa.Table], facts: Mapping[str, Any], owner: str) -> None:
        """Writes the tables, by the lake's directory that each belongs to, and the facts: both or neither.

        What was committed before must be in the lake: call `deliver` first.
        """
        assert not self._pending
        number = f"{self._sequence:012d}"
        pending = {
            f"{number}-{index:04d}.parquet": f"{partition}/part-{owner}-{number}.parquet"
            for index, partition in enumerate(tables)
        }
        for name, table in zip(pending, tables.values(), strict=True):
            _write(self.directory / name, table)
        sync_directory(self.directory)
        state = {"format": FORMAT, "sequence": self._sequence + 1, "pending": pending, "facts": dict(facts)}
        replace_durably(self._state, json.dumps(state).encode())
        self._sequence, self._pending, self.facts = self._sequence + 1, pending, dict(facts)

    def deliver(self) -> None:
        """Puts what was committed into the lake; raises OSError where that cannot be, to be called again."""
        for name, target in list(self._pending.items()):
            source = self.directory / name
            if source.exists():  # not so for one that was put before its recorder was killed
                with source.open("rb") as file:
                    self.lake.put(file, target)
                source.unlink()
            del self._pending[name]

    def _recall(self) -> None:
        try:
            saved = json.loads(self._state.read_bytes())
        except FileNotFoundError:
            return
        if saved["format"] != FORMAT:
            raise ValueError(f"the recorder's state has format {saved['format']}; this release reads {FORMAT}")
        self._sequence, self._pending, self.facts = saved["sequence"], saved["pending"], saved["facts"]


def _write(path: Path, table: pa.Table) -> None:
    try:
        with path.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            sync(file)
    except OSError:
        path.unlink(missing_ok=True)
        raise
