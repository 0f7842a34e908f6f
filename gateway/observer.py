"""The observer: it reads what the workers journal and adds it up, and holds the uplink to the control plane."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any, Final

from gateway.board import BEAT, Board, Boards
from gateway.config import Config
from gateway.contract.errors import Reason
from gateway.evidence.collect import Collector
from gateway.failures import Failed, Failures
from gateway.journal_reader import JournalReader
from gateway.loop import run_until_terminated
from gateway.telemetry import log, log_rationed, settle
from gateway.totals import Totals
from gateway.traffic import Traffic
from gateway.uplink import Pinned, RouteFollower
from gateway.wire.routes import parse_routes

FORMAT: Final = 1
PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.1
AT_ONCE: Final = 2048
"""Blocks added up before anything else gets its turn: a few milliseconds."""
BOARD_BYTES: Final = 8 << 20
BOARD_S: Final = 0.25
LOG_S: Final = 1.0
"""How often failed calls are looked for."""
BEAT_BYTES: Final = 4096


def run(config: Config) -> None:
    """Works until SIGTERM, which comes after the workers have ended; then adds up the rest of what they wrote."""
    run_until_terminated(Observer(config).work())


class Observer:
    """Totals that neither a restart nor a kill makes wrong: they are saved together with the reader's position."""

    def __init__(self, config: Config) -> None:
        self._state = config.data / "observer.state"
        self._board = Board(config.run_path / "observer.board", BOARD_BYTES)
        self._beat = Board(config.run_path / BEAT, BEAT_BYTES)
        gateway_id = (config.data / "gateway.id").read_text().strip()
        self._traffic = Traffic()
        self._routes = RouteFollower(config, gateway_id, self._pinned, lambda: self._traffic.lately(time.time_ns()))
        self._collector = Collector(config, gateway_id)
        self._reports = bool(config.control)
        saved = recall(self._state)
        self._totals = Totals(saved.get("totals"))
        self._reader = JournalReader(config.journal_path, saved.get("positions"))
        self._lost_before = self._totals.lost
        self._changed = False
        self._boards = Boards(config.run_path, config.worker_count)
        self._failures = Failures(self._failed())

    async def work(self) -> None:
        """Does all of its work, for ever."""
        while self._add_up():  # before the board is first written: its figures must never go down
            await asyncio.sleep(0)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tail())
                tasks.create_task(self._say())
                tasks.create_task(self._log())
                tasks.create_task(self._routes.follow())
                tasks.create_task(self._collect())
                if self._reports:
                    tasks.create_task(self._collector.report())
        finally:
            while self._add_up():
                pass
            self._keep()
            self._board.write(self._facts())
            self._log_failures()

    async def _tail(self) -> None:
        pause_s = PAUSE_S
        while True:
            full = self._add_up()
            pause_s = PAUSE_S if self._changed else min(pause_s * 1.3, LONGEST_PAUSE_S)
            await asyncio.sleep(0 if full else pause_s)

    def _add_up(self) -> bool:
        """Adds what has come, up to a number of blocks; whether there may be more."""
        blocks = list(islice(self._reader.poll(AT_ONCE // 2), AT_ONCE))
        if blocks:
            self._totals.add(blocks)
            self._traffic.add(blocks)
            self._failures.note(blocks)
            self._changed = True
        self._totals.lost = self._lost_before + self._reader.lost
        return len(blocks) >= AT_ONCE // 2

    async def _collect(self) -> None:
        """Counts evidence, and gives the sign of life without which nothing is tried: it says that somebody counts."""
        followed = b""
        while True:
            table = self._routes.table
            if table.raw != followed:
                followed = table.raw
                self._collector.follow(parse_routes(table.raw))
            full = self._collector.count()
            self._collector.guard()
            if self._collector.keeps:
                self._beat.write({"heartbeat_ns": time.monotonic_ns()})
            await asyncio.sleep(0 if full else PAUSE_S)

    async def _say(self) -> None:
        """Saves what was added up and says it; in this order, so that no figure on the board is ever taken back."""
        while True:
            if self._changed:
                self._keep()
            self._board.write(self._facts())
            await asyncio.sleep(BOARD_S)

    async def _log(self) -> None:
        while True:
            self._log_failures()
            settle()
            await asyncio.sleep(LOG_S)

    def _log_failures(self) -> None:
        """Says in the log which calls failed: here, so that the request path need not."""
        for level, facts in self._failures.lines(self._failed(), time.monotonic_ns()):
            log_rationed(level, "calls_failed", **facts)

    def _failed(self) -> dict[Failed, int]:
        """Failed rows by what is known of them; calls refused for overload are on the workers' boards alone."""
        counts = {Failed(*key): count for key, count in self._totals.failed().items()}
        for index, said in self._boards.workers().items():
            counts[Failed(Reason.OVERLOADED, worker=index)] = said.get("overloaded", 0)
        return counts

    def _facts(self) -> dict[str, Any]:
        table = self._routes.table
        return {
            "pid": os.getpid(),
            "heartbeat_ns": time.monotonic_ns(),
            "connected": self._routes.connected,
            "revision": table.revision,
            "history_id": table.history_id,
            "refused_history_id": self._routes.refused_history_id,
            "feature_sequence": self._routes.sequence,
            "problems": [*self._collector.problems(), *self._routes.problems()],
            **self._totals.facts(),
        }

    def _pinned(self) -> list[Pinned]:
        return self._totals.pinned(time.time_ns())

    def _keep(self) -> None:
        """Saves totals and positions, both or neither."""
        self._changed = False
        state = {"format": FORMAT, "totals": self._totals.facts(), "positions": self._reader.positions}
        fresh = self._state.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(state))
            fresh.rename(self._state)
        except OSError as error:
            log(logging.ERROR, "totals_not_saved", error=repr(error))


def recall(path: Path) -> dict[str, Any]:
    """What an earlier observer saved; nothing where that cannot be read."""
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log(logging.ERROR, "totals_not_read", error=repr(error))
        return {}
    return saved if saved.get("format") == FORMAT else {}
