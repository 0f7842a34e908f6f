"""The recorder's process: it collects what workers journalled, and moves it to the lake every now and then.

It may be slow or dead: callers do not notice. What it has not read when the journal comes round is counted as lost.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import defaultdict
from functools import cache
from io import BytesIO
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from gateway.board import Board
from gateway.config import Config
from gateway.contract.alerts import Alert, AlertText, alert
from gateway.features.store import OnlineStore
from gateway.journal import Block
from gateway.journal_reader import JournalReader
from gateway.loop import run_until_terminated
from gateway.outcome_reader import OutcomeReader
from gateway.pairs import read_pairs
from gateway.recorder import outcomes, pairs, predictions
from gateway.recorder.definitions import Definition, Definitions
from gateway.recorder.lake import Lake
from gateway.recorder.spool import Spool
from gateway.telemetry import log
from gateway.wire.outcomes import Recorded, recorded

FORMAT: Final = 1
PAUSE_S: Final = 0.2
SETTLED_NS: Final = 1_000_000_000
"""How long it takes at most from a row's time to its place in the journal."""
AT_ONCE: Final = 2048
"""Blocks collected before anything else gets its turn."""
MOST_ROWS: Final = 100_000
"""Rows collected at which they are written: a file of some megabytes."""
MOST_BYTES: Final = 256 << 20
"""Bytes of features and request values collected at which they are written."""


def run(config: Config) -> None:
    """Works until SIGTERM, which comes after the workers have ended; then writes the rest of what they wrote."""
    run_until_terminated(Recorder(config).work())


class Recorder:
    """Collects rows, and writes them to the lake with the positions up to which it has read."""

    def __init__(self, config: Config) -> None:
        self._gateway_id = (config.data / "gateway.id").read_text().strip()
        self._lake = Lake(config.lake_path)
        self._spool = Spool(config.data / "recorder", config.data / "recorder.state", self._lake)
        saved = self._spool.facts
        self._journal = JournalReader(config.journal_path, saved.get("journal"))
        self._mirror = JournalReader(config.mirror_journal_path, saved.get("pairs"))
        self._outcomes = OutcomeReader(config.outcomes_path, saved.get("outcomes"))
        self._definitions = Definitions(config.routes_path)
        self._store = OnlineStore(config.features_path)
        self._board = Board(config.run_path / "recorder.board")
        self._flush_ns = config.lake_flush_ms * 1_000_000
        self._lost_before = int(saved.get("lost_rows", 0))
        self._lost_pairs_before = int(saved.get("lost_pairs", 0))
        self._blocks: list[tuple[Block, Definition | None]] = []
        self._pairs: list[tuple[Block, pairs.Known]] = []
        self._reported: list[Recorded] = []
        self._rows = self._bytes = 0
        self._through_ns = 0
        self._due_ns = 0
        self._problem: AlertText | None = None

    async def work(self) -> None:
        """Collects and writes, for ever."""
        try:
            while True:
                more = self._collect()
                if time.monotonic_ns() >= self._due_ns or self._rows >= MOST_ROWS or self._bytes >= MOST_BYTES:
                    self._write()
                self._say()
                await asyncio.sleep(0 if more and not self._problem else PAUSE_S)
        finally:
            while self._collect():
                self._write()
            self._write()
            self._say()

    def _collect(self) -> bool:
        """Takes what has come, up to a number of rows; whether there may be more."""
        if self._rows >= MOST_ROWS or self._bytes >= MOST_BYTES:
            return False  # the lake takes nothing at present: the journal keeps the rest for as long as it can
        now_ns = time.time_ns()
        self._definitions.refresh()
        # Outcomes first: none comes to the lake before a prediction of this gateway that it belongs to.
        self._reported += map(recorded, self._outcomes.poll())
        blocks = list(islice(self._journal.poll(AT_ONCE // 2), AT_ONCE))
        for block in blocks:
            self._take(block)
        mirrored = list(islice(self._mirror.poll(AT_ONCE // 2), AT_ONCE))
        self._pairs += [(block, self._both(block)) for block in mirrored]
        self._rows += sum(len(block.rows) for block in mirrored)
        more = max(len(blocks), len(mirrored)) >= AT_ONCE // 2
        if not more:
            self._through_ns = now_ns - SETTLED_NS
        return more

    def _take(self, block: Block) -> None:
        if not block.model:
            return  # calls that were refused before they had a model: the metrics count them
        definition = self._definitions.get(block.model, block.version)
        if definition is None or not definition.document.log_features:
            # A copy of the rows lets go of the features that were read with them.
            block = block._replace(rows=block.rows.copy(), payload=(), labels=(), notes=b"")
        self._blocks.append((block, definition))
        self._rows += len(block.rows)
        self._bytes += sum(map(len, block.payload))

    def _both(self, block: Block) -> pairs.Known:
        other = read_pairs(block).other_version
        return self._definitions.get(block.model, block.version), self._definitions.get(block.model, other)

    def _write(self) -> None:
        """Commits what was collected, and puts it into the lake; what cannot be written now is tried again."""
        self._due_ns = time.monotonic_ns() + self._flush_ns
        try:
            self._spool.deliver()
            if self._blocks or self._reported or self._pairs:
                self._spool.commit(self._tables(), self._facts(), self._gateway_id)
                self._blocks, self._pairs, self._reported, self._rows, self._bytes = [], [], [], 0, 0
                self._spool.deliver()
            self._outcomes.remove_read()
            self._mark()
        except OSError as error:
            self._problem = alert(Alert.LAKE_NOT_WRITTEN, f"rows do not reach it: {os.strerror(error.errno or 0)}")
            log(logging.ERROR, "lake_not_written", why=repr(error))
        else:
            self._problem = None

    def _mark(self) -> None:
        """Says in the lake up to when this gateway's rows are there, and how many were lost."""
        mark = {
            "format": FORMAT,
            "gateway_id": self._gateway_id,
            "through_ns": self._through_ns,
            "lost_rows": self._lost_before + self._journal.lost,
            "lost_pairs": self._lost_pairs_before + self._mirror.lost,
        }
        self._lake.put(BytesIO(json.dumps(mark).encode()), f"gateways/{self._gateway_id}.json")

    def _tables(self) -> dict[str, pa.Table]:
        blocks: defaultdict[str, list[tuple[Block, Definition | None]]] = defaultdict(list)
        for block, definition in self._blocks:
            blocks[predictions.partition(block.model, block.time_ns)].append((block, definition))
        mirrored: defaultdict[str, list[tuple[Block, pairs.Known]]] = defaultdict(list)
        for block, known in self._pairs:
            mirrored[pairs.partition(block)].append((block, known))
        reported: defaultdict[str, list[Recorded]] = defaultdict(list)
        for outcome in self._reported:
            reported[outcomes.partition(outcome)].append(outcome)
        with self._store as snapshot:
            snapshot.forget_texts()
            tables = {
                where: predictions.table(found, self._gateway_id, _words(snapshot)) for where, found in blocks.items()
            }
        tables |= {where: pairs.table(both, self._gateway_id) for where, both in mirrored.items()}
        return tables | {where: outcomes.table(found, self._gateway_id) for where, found in reported.items()}

    def _facts(self) -> dict[str, Any]:
        return {
            "journal": self._journal.positions,
            "pairs": self._mirror.positions,
            "outcomes": self._outcomes.places,
            "lost_pairs": self._lost_pairs_before + self._mirror.lost,
            "lost_rows": self._lost_before + self._journal.lost,
            "through_ns": self._through_ns,
        }

    def _say(self) -> None:
        self._board.write(
            {
                "pid": os.getpid(),
                "heartbeat_ns": time.monotonic_ns(),
                "lost_rows": self._lost_before + self._journal.lost,
                "waiting_rows": self._rows + len(self._reported),
                "through_ns": self._spool.facts.get("through_ns", 0),
                "problems": [self._problem] if self._problem else [],
            }
        )


def _words(store: OnlineStore) -> predictions.Words:
    """The dictionaries in the store's present snapshot, each read once."""

    @cache
    def words(view: bytes, feature: str) -> list[str]:
        return [str(word) for word in store.texts(view, feature)]

    return words
