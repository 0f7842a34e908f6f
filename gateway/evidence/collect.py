"""The collector: it reads the journal for rollouts, keeps what counts, judges alone where it may, and reports up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from control.v1 import data_plane_pb2 as pb
from gateway.board import BoardReader, Boards
from gateway.config import Config
from gateway.evidence.count import Counter, Unit
from gateway.evidence.log import EvidenceLog
from gateway.journal import Block
from gateway.journal_reader import JournalReader
from gateway.stepback import Kind
from gateway.telemetry import log
from gateway.uplink import Lost, connection, pause_s
from gateway.wire.routes import RouteTable
from gateway.withdrawals import Withdrawals

REPORT_S: Final = 1.0
"""How often a rollout is reported although nothing is new: silence would mean that nobody watches."""
LOOK_S: Final = 0.05
MOST_UNITS: Final = 20_000
"""Units in one report."""
AT_ONCE: Final = 1024
"""Blocks read before anything else gets its turn."""


class Collector:
    """The evidence of every rollout that this gateway's table names."""

    def __init__(self, config: Config, gateway_id: str) -> None:
        self._gateway_id = gateway_id
        self._config = config
        self._log = EvidenceLog(config.data / "evidence.log")
        self._boards = Boards(config.run_path, config.worker_count)
        self._mirror = BoardReader(config.run_path / "mirror.board")
        self._withdrawals = Withdrawals(config.routes_path.parent)
        recalled = self._log.recalled
        state = recalled.state
        self._units: dict[int, list[Unit]] = recalled.units
        self._counters: dict[int, Counter] = {}
        self._reader = JournalReader(config.journal_path, state.get("positions"))
        self._lost_before = int(state.get("lost", 0))
        self._began: dict[int, int] = {int(name): lost for name, lost in state.get("began", {}).items()}
        """By rollout: rows that had been lost before it."""
        self._kept: dict[int, int] = {}
        """By rollout: the last number that the control plane keeps."""
        self._before: dict[int, int] = {}
        """By rollout: numbers that were told by a log which is lost, so that they are not given again."""
        self._told_s: dict[int, float] = {}
        self._seen_ns: dict[int, int] = {}
        self._table: RouteTable | None = None
        self._withdrawn: set[tuple[int, str]] = set()

    def follow(self, table: RouteTable) -> None:
        """Counts for the canaries of a table from here on, and forgets those that it no longer names."""
        self._table = table
        wanted = {canary.rollout_id: canary for canary in table.canaries.values()}
        for rollout_id, canary in wanted.items():
            counter = self._counters.get(rollout_id)
            if counter is None:
                counter = self._counters[rollout_id] = Counter(canary)
                counter.recall(self._units.setdefault(rollout_id, []))
                self._began.setdefault(rollout_id, self._lost)
            counter.canary = canary
        gone = (self._counters.keys() | self._units.keys()) - wanted.keys()
        for rollout_id in gone:
            for known in (self._counters, self._units, self._began, self._kept, self._seen_ns, self._before):
                known.pop(rollout_id, None)
        if gone:
            self._log.compact(self._units, self._state())

    def count(self) -> bool:
        """Reads what was journalled since, keeps what counts of it, and judges; whether there may be more."""
        told: list[tuple[int, Unit]] = []
        read = 0
        for block in self._reader.poll(AT_ONCE):
            read += 1
            if (counter := self._counters.get(block.rollout_id)) is not None:
                told += [(block.rollout_id, unit) for unit in self._take(counter, block)]
        if told:
            self._log.append(told, self._state())
            for rollout_id, unit in told:
                self._units[rollout_id].append(unit)
            self._judge()
        return read >= AT_ONCE

    def guard(self) -> None:
        """Withdraws, durably and for all workers, what a worker has given up or cannot load."""
        for said in self._boards.workers().values():
            for one in said.get("given_up", ()):
                self._withdraw(one["rollout_id"], Kind.GUARD, one["reason"])

    async def report(self) -> None:
        """Tells the control plane, for ever."""
        attempt = 0
        while True:
            try:
                async with connection(self._config) as (stub, metadata):
                    while True:
                        for request in self._due():
                            answer = await stub.ReportEvidence(request, metadata=metadata, timeout=10)
                            self._note_kept(request.rollout_id, answer.kept_number)
                        attempt = 0
                        await asyncio.sleep(LOOK_S)
            except Lost:
                attempt += 1
                await asyncio.sleep(pause_s(attempt))

    def _take(self, counter: Counter, block: Block) -> list[Unit]:
        self._seen_ns[block.rollout_id] = block.time_ns
        return counter.take(block)

    @property
    def _lost(self) -> int:
        return self._lost_before + self._reader.lost

    def _state(self) -> dict[str, Any]:
        return {"positions": self._reader.positions, "lost": self._lost, "began": self._began}

    def _judge(self) -> None:
        for rollout_id, counter in self._counters.items():
            if self._gateway_id in counter.canary.judges and (why := counter.breach()):
                self._withdraw(rollout_id, Kind.EVIDENCE, why)

    def _withdraw(self, rollout_id: int, kind: Kind, reason: str) -> None:
        counter = self._counters.get(rollout_id)
        if counter is None or self._table is None or (rollout_id, kind) in self._withdrawn:
            return
        challenger = counter.canary.challenger
        standing = {one.digest for one in self._withdrawals.read()}
        if challenger.digest not in standing:
            self._withdrawals.add(self._table, [challenger], (kind, "gateway", reason))
            name = f"{challenger.model}/{challenger.version}"
            log(logging.WARNING, "challenger_withdrawn", version=name, rollout_id=rollout_id, kind=kind, reason=reason)
        self._withdrawn.add((rollout_id, kind))

    def _due(self) -> list[pb.ReportEvidenceRequest]:
        """Reports of rollouts that have something new to say, or were silent for as long as they may be."""
        now_s = time.monotonic()
        mirrors = (self._mirror.read() or {}).get("shadows", {})
        due = []
        for rollout_id in self._named():
            units = self._units.get(rollout_id, [])
            kept, before = self._kept.get(rollout_id, 0), self._before.get(rollout_id, 0)
            fresh = units[kept - before : kept - before + MOST_UNITS]
            if not fresh and now_s < self._told_s.get(rollout_id, 0.0) + REPORT_S:
                continue
            self._told_s[rollout_id] = now_s
            due.append(self._request(rollout_id, kept + 1, fresh, mirrors.get(str(rollout_id))))
        return due

    def _named(self) -> list[int]:
        """The rollouts of the table: those with a canary, and those that are only mirrored."""
        shadows = self._table.shadows.values() if self._table else ()
        return list({*self._counters, *(one.rollout_id for found in shadows for one in found)})

    def _request(
        self, rollout_id: int, first_number: int, units: list[Unit], mirrored: Mapping[str, Any] | None
    ) -> pb.ReportEvidenceRequest:
        counter = self._counters.get(rollout_id)
        return pb.ReportEvidenceRequest(
            gateway_id=self._gateway_id,
            rollout_id=rollout_id,
            first_number=first_number,
            units=[pb.EvidenceUnit(**unit._asdict()) for unit in units],
            rows_lost=self._lost - self._began.get(rollout_id, self._lost),
            shadow=None if mirrored is None else pb.ShadowReport(**mirrored),
            seen_ns=self._seen_ns.get(rollout_id, 0),
            step=counter.step if counter else 0,
        )

    def _note_kept(self, rollout_id: int, kept: int) -> None:
        known = len(self._units.get(rollout_id, ())) + self._before.get(rollout_id, 0)
        if kept > known:
            self._before[rollout_id] = self._before.get(rollout_id, 0) + kept - known
        self._kept[rollout_id] = kept
