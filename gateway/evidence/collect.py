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
from gateway.contract.alerts import Alert, AlertText, alert
from gateway.contract.errors import Fault
from gateway.evidence.count import Counter, Unit
from gateway.evidence.log import EvidenceLog, Units
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
        state = self._log.state
        self._counters: dict[int, Counter] = {}
        self._reader = JournalReader(config.journal_path, state.get("positions"))
        self._lost_before = int(state.get("lost", 0))
        self._began = _by_rollout(state.get("began", {}))
        """By rollout: rows that had been lost before it."""
        self._before = _by_rollout(state.get("before", {}))
        """By rollout: numbers that were told by a log which is lost, so that they are not given again."""
        self._recalled = {rollout_id: len(units) for rollout_id, units in self._log.units.items()}
        self._kept: dict[int, int] = {}
        """By rollout: the last number that the control plane keeps; none before it was asked."""
        self._told_s: dict[int, float] = {}
        self._seen_ns: dict[int, int] = {}
        self._table: RouteTable | None = None
        self._pending: list[tuple[int, Unit]] = []
        """Counted, and not kept yet: nothing more is read, judged or told before they are."""
        self._begun = False
        """Whether a rollout began since the state was kept."""
        self._withdrawn: set[tuple[int, Kind]] = set()
        self._refused: dict[tuple[int, Kind], str] = {}
        """Withdrawals that the disk refuses, and their reasons: they are tried again."""

    @property
    def keeps(self) -> bool:
        """Whether what is counted and decided here is kept. While it is not, nothing must be tried."""
        return not self._pending and not self._refused

    def problems(self) -> list[AlertText]:
        """What keeps this gateway from trying anything, in words."""
        words = "what rollouts' rows show cannot be written down, so no canary gets traffic here"
        return [] if self.keeps else [alert(Alert.EVIDENCE_NOT_KEPT, words)]

    def follow(self, table: RouteTable) -> None:
        """Counts for the canaries of a table from here on, and forgets those that it no longer names."""
        self._table = table
        wanted = {canary.rollout_id: canary for canary in table.canaries.values()}
        for rollout_id, canary in wanted.items():
            counter = self._counters.get(rollout_id)
            if counter is None:
                counter = self._counters[rollout_id] = Counter(canary)
                counter.recall(self._units(rollout_id))
                self._began.setdefault(rollout_id, self._lost)
                self._begun = True
            counter.canary = canary
        gone = (self._counters.keys() | self._log.units.keys()) - wanted.keys()
        for rollout_id in gone:
            for known in (self._counters, self._began, self._kept, self._seen_ns, self._before, self._recalled):
                known.pop(rollout_id, None)
        self._pending = [one for one in self._pending if one[0] in wanted]
        self._refused = {which: why for which, why in self._refused.items() if which[0] in wanted}
        if gone:
            self._log.forget(list(gone), self._state())
        self._judge()  # what was recalled may have been written just before the end

    def count(self) -> bool:
        """Reads what was journalled since, keeps what counts of it, and judges; whether there may be more."""
        if not self._keep():
            return False
        read = 0
        for block in self._reader.poll(AT_ONCE):
            read += 1
            if (counter := self._counters.get(block.rollout_id)) is not None:
                self._seen_ns[block.rollout_id] = block.time_ns
                self._pending += [(block.rollout_id, unit) for unit in counter.take(block)]
        self._keep()
        return read >= AT_ONCE

    def guard(self) -> None:
        """Withdraws, durably and for all workers, what a worker has given up or cannot load."""
        for said in self._boards.workers().values():
            for one in said.get("given_up", ()):
                self._withdraw(one["rollout_id"], Kind.GUARD, one["reason"])
        for (rollout_id, kind), reason in tuple(self._refused.items()):
            self._withdraw(rollout_id, kind, reason)

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

    def _keep(self) -> bool:
        """Keeps what was counted, with how far the journal was read for it; False while the disk refuses."""
        if not self._pending and not self._begun:
            return True
        try:
            self._log.append(self._pending, self._state())
        except OSError as error:
            log(logging.ERROR, "evidence_not_kept", error=repr(error))
            return False
        counted, self._pending, self._begun = bool(self._pending), [], False
        if counted:
            self._judge()
        return True

    def _units(self, rollout_id: int) -> Units:
        return self._log.units.get(rollout_id) or Units()

    @property
    def _lost(self) -> int:
        return self._lost_before + self._reader.lost

    def _state(self) -> dict[str, Any]:
        positions = self._reader.positions
        return {"positions": positions, "lost": self._lost, "began": self._began, "before": self._before}

    def _judge(self) -> None:
        for rollout_id, counter in self._counters.items():
            # Who forgot evidence would spend its part of alpha again, and leaves the judgement to others.
            judges = self._gateway_id in counter.canary.judges and not self._before.get(rollout_id)
            if judges and (why := counter.breach()):
                self._withdraw(rollout_id, Kind.EVIDENCE, why)

    def _withdraw(self, rollout_id: int, kind: Kind, reason: str) -> None:
        counter = self._counters.get(rollout_id)
        if counter is None or self._table is None or (rollout_id, kind) in self._withdrawn:
            return
        challenger = counter.canary.challenger
        try:
            added = self._withdrawals.add(self._table, [challenger], (kind, "gateway", reason))
        except (OSError, ValueError, Fault) as error:
            log(logging.ERROR, "challenger_not_withdrawn", rollout_id=rollout_id, error=repr(error))
            self._refused[rollout_id, kind] = reason
            return
        self._refused.pop((rollout_id, kind), None)
        self._withdrawn.add((rollout_id, kind))
        if added:
            name = f"{challenger.model}/{challenger.version}"
            log(logging.WARNING, "challenger_withdrawn", version=name, rollout_id=rollout_id, kind=kind, reason=reason)

    def _due(self) -> list[pb.ReportEvidenceRequest]:
        """Reports of rollouts that have something new to say, or were silent for as long as they may be.

        The first one of each tells nothing and asks how much is kept. While nothing can be kept here nothing is said,
        so that the rollout is known to be unwatched.
        """
        now_s = time.monotonic()
        mirrors = (self._mirror.read() or {}).get("shadows", {})
        due = []
        for rollout_id in self._named() if self.keeps else ():
            kept, before = self._kept.get(rollout_id), self._before.get(rollout_id, 0)
            fresh = [] if kept is None else self._units(rollout_id).part(kept - before, MOST_UNITS)
            asks = kept is None and rollout_id not in self._told_s
            if not fresh and not asks and now_s < self._told_s.get(rollout_id, 0.0) + REPORT_S:
                continue
            self._told_s[rollout_id] = now_s
            due.append(self._request(rollout_id, (kept or 0) + 1, fresh, mirrors.get(str(rollout_id))))
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
        """Takes what the control plane keeps: its first answer tells of units that this log has lost."""
        before = self._before.get(rollout_id, 0)
        if rollout_id not in self._kept:
            before = max(before, kept - self._recalled.get(rollout_id, 0))
        if before := min(before, kept):  # less than before the log began: then it is the control plane that lost some
            self._before[rollout_id] = before
        else:
            self._before.pop(rollout_id, None)
        self._kept[rollout_id] = kept


def _by_rollout(said: Mapping[str, int]) -> dict[int, int]:
    return {int(name): number for name, number in said.items()}
