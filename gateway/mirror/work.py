"""The mirror's work while there are shadows: it reads the journals, has rows scored by turns, and keeps the figures."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

from gateway.config import Config
from gateway.contract.alerts import Alert, AlertText, alert
from gateway.contract.document import ModelDocument
from gateway.features.store import OnlineStore
from gateway.journal import JournalWriter
from gateway.journal_reader import JournalReader
from gateway.mirror.compare import Comparison, Drop
from gateway.mirror.lane import Lane, Sides, next_lane
from gateway.mirror.mark import Doing, Mark
from gateway.mirror.state import keep, recall
from gateway.mirror.versions import Versions
from gateway.telemetry import log
from gateway.wire.routes import RouteTable, ServedVersion, Shadow

AT_ONCE: Final = 512
"""Blocks read before a shadow gets its turn."""
TURN_NS: Final = 20_000_000
"""How long a shadow has its turn, at least for one row."""
KEEP_NS: Final = 1_000_000_000
"""How often the state is saved: what was counted since is counted again after a restart."""
JOURNAL_BYTES: Final = 32 << 20
"""Of the mirror's own journal: the recorder reads it as soon as it is written."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
STATM: Final = Path("/proc/self/statm")
SPARE_PERCENT: Final = 75
"""Of the memory that the mirror may take: beyond that it begins anew, before an innocent shadow is refused some."""


class Work:
    """Every shadow of this gateway."""

    def __init__(self, config: Config, mark: Mark) -> None:
        self._config = config
        self._mark = mark
        self._state_path = config.data / "mirror.state"
        self._state = recall(self._state_path)
        self._comparisons = dict(self._state.comparisons)
        self._reader: JournalReader | None = None
        self._lost = 0
        self._store = OnlineStore(config.features_path)
        self._pairs = JournalWriter(config.mirror_journal_path / "worker-mirror", JOURNAL_BYTES)
        self._versions = Versions(config.artifacts_path)
        self._lanes: list[Lane] = []
        self._by_model: dict[str, list[Lane]] = {}
        self._documents: dict[tuple[str, int], ModelDocument] = {}
        self._changed = False
        self._kept_ns = 0
        self._most_bytes = config.mirror_bytes * SPARE_PERCENT // 100
        self._recover()

    def follow(self, table: RouteTable) -> None:
        """Goes by a table from now on; forgets the rollouts that it does not name."""
        former = {(lane.shadow.rollout_id, lane.other.digest): lane for lane in self._lanes}
        lanes: list[Lane] = []
        wanted: set[str] = set()
        for model, shadow in _shadows(table):
            other = compared_with(table, model, shadow)
            if other is None:
                continue
            comparison = self._comparisons.setdefault(shadow.rollout_id, Comparison())
            lane = former.get((shadow.rollout_id, other.digest)) or Lane(shadow, other, comparison, self._mark)
            lane.shadow = shadow
            lanes.append(lane)
            wanted |= {shadow.version.digest, other.digest}
        for lane in self._lanes:
            if lane not in lanes:
                lane.comparison.dropped[Drop.NOT_LOADED] += lane.waiting
        self._lanes = lanes
        named = {shadow.rollout_id for _, shadow in _shadows(table)}
        for gone in self._comparisons.keys() - named:
            del self._comparisons[gone]
        self._documents = {(one.model, one.version): one.document for one in _versions(table)}
        self._by_model = defaultdict(list)
        for lane in lanes:
            self._by_model[lane.shadow.version.model].append(lane)
        self._versions.keep_only(wanted)
        self._pair_up()
        if not lanes:
            self._reader = None
        elif self._reader is None:
            self._tail()

    def step(self) -> bool:
        """Reads what has come, loads a version or has one shadow score for its turn; whether there was anything."""
        if self._reader is None:
            return False
        if self._load_next():  # before anything is read: there would be nobody to score it
            return True
        read = self._read(self._reader)
        return self._turn() or read

    def outgrown(self) -> bool:
        """Whether the process has taken so much memory that it must begin anew.

        That counts against the shadow in whose turns it grew most.
        """
        if taken_bytes() <= self._most_bytes or not self._lanes:
            return False
        worst = max(self._lanes, key=lambda lane: lane.grown_bytes)
        worst.comparison.crashes += 1
        log(logging.WARNING, "mirror_outgrown", rollout_id=worst.shadow.rollout_id, grown_bytes=worst.grown_bytes)
        return True

    def keep(self, now: bool = False) -> bool:
        """Saves the state when that is due; whether there is something new to say."""
        now_ns = time.monotonic_ns()
        if not self._changed or (not now and now_ns < self._kept_ns + KEEP_NS):
            return False
        self._kept_ns, self._changed = now_ns, False
        waiting = {lane.shadow.rollout_id: lane.waiting for lane in self._lanes}
        saved = {number: one.saved(waiting.get(number, 0)) for number, one in self._comparisons.items()}
        keep(self._state_path, saved, self._reader.positions if self._reader else {})
        return True

    def facts(self) -> dict[str, Any]:
        """What the board says."""
        return {
            "shadows": {str(rollout_id): one.report() for rollout_id, one in self._comparisons.items()},
            "scored": [lane.shadow.rollout_id for lane in self._lanes if lane.sides],
            "problems": self._problems(),
        }

    def _recover(self) -> None:
        """Counts what an earlier process did not survive."""
        marked = self._mark.found
        if marked is None:
            return
        comparison = self._comparisons.setdefault(marked.rollout_id, Comparison())
        log(logging.WARNING, "mirror_had_ended", doing=marked.doing.name, rollout_id=marked.rollout_id)
        if not marked.by_itself:
            return  # the row is tried again
        if marked.doing is Doing.OTHER:
            comparison.skip(marked.prediction_id)
        else:
            comparison.count_crash(marked.prediction_id)
        self._changed = True

    def _tail(self) -> None:
        """Begins to read the journals: where a mirror ended a moment ago, or else with what comes now."""
        state, self._state = self._state, self._state._replace(positions={}, recent=False)
        self._lost = 0
        self._reader = JournalReader(self._config.journal_path, state.positions)
        if not state.recent:
            self._reader.skip()

    def _read(self, reader: JournalReader) -> bool:
        blocks = list(islice(reader.poll(AT_ONCE // 2), AT_ONCE))
        for block in blocks:
            for lane in self._by_model.get(block.model, ()):
                lane.offer(block)
        if reader.lost > self._lost:
            for lane in self._lanes:
                lane.comparison.dropped[Drop.OVERWRITTEN] += reader.lost - self._lost
            self._lost = reader.lost
        self._changed = self._changed or bool(blocks)
        return bool(blocks)

    def _turn(self) -> bool:
        lane = next_lane(self._lanes)
        if lane is None:
            return False
        before_bytes, began_ns = taken_bytes(), time.thread_time_ns()
        ends_ns = time.monotonic_ns() + TURN_NS
        while lane.busy:
            lane.step(self._store, self._documents, self._pairs)
            if time.monotonic_ns() >= ends_ns:
                break
        lane.spent_ns += time.thread_time_ns() - began_ns
        lane.grown_bytes += taken_bytes() - before_bytes
        self._changed = True
        return True

    def _load_next(self) -> bool:
        """Loads one version that is wanted, unless the shadow for which it is ended the mirror too often."""
        for lane in self._lanes:
            for served in () if lane.comparison.left_alone else (lane.other, lane.shadow.version):
                if self._versions.due(served):
                    # What the other version does to this process it has done to the workers before.
                    self._mark.begin(Doing.LOADING, lane.shadow.rollout_id)
                    self._versions.load(served)
                    self._mark.end()
                    self._pair_up()
                    return True
        return False

    def _pair_up(self) -> None:
        for lane in self._lanes:
            shadow, other = self._versions.get(lane.shadow.version), self._versions.get(lane.other)
            able = shadow is not None and other is not None and not lane.comparison.left_alone
            lane.sides = Sides(shadow, other) if able and shadow and other else None
        self._changed = True

    def _problems(self) -> list[AlertText]:
        found = []
        for lane in self._lanes:
            served, comparison = lane.shadow.version, lane.comparison
            name = f"{served.model}/{served.version}"
            if comparison.left_alone:
                words = f"{name} ended the mirror {comparison.crashes} times, and is scored there no more"
                found.append(alert(Alert.SHADOW_NOT_SCORED, words))
            known = filter(None, map(self._versions.problem, (served, lane.other)))
            found += [alert(Alert.SHADOW_NOT_SCORED, f"{name} in the mirror: {why}") for why in known]
        return found


def compared_with(table: RouteTable, model: str, shadow: Shadow) -> ServedVersion | None:
    """The version that a shadow is compared with: its rollout's control, or whoever answers."""
    canary = table.canaries.get(model)
    if canary is not None and canary.rollout_id == shadow.rollout_id:
        return canary.control
    return table.champions.get(model)


def _shadows(table: RouteTable) -> list[tuple[str, Shadow]]:
    return [(model, shadow) for model, shadows in table.shadows.items() for shadow in shadows]


def _versions(table: RouteTable) -> list[ServedVersion]:
    """Every version whose rows may be in the journals."""
    found = [*table.champions.values(), *(one for kept in table.kept.values() for one in kept)]
    found += [one for canary in table.canaries.values() for one in (canary.challenger, canary.control)]
    return found


def taken_bytes() -> int:
    """The memory that this process has for itself: what its limit limits."""
    return int(STATM.read_bytes().split()[5]) * PAGE_BYTES
