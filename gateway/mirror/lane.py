"""One shadow's rows on their way: a bounded queue, and what comes of each row."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from gateway.contract.document import ModelDocument
from gateway.features.store import OnlineStore
from gateway.journal import ROW, Block, JournalWriter
from gateway.mirror.compare import Comparison, Drop
from gateway.mirror.divergence import Flip, Scored, flip
from gateway.mirror.inputs import Inputs, NotJournalledError, inputs_of
from gateway.mirror.mark import Doing, Mark
from gateway.mirror.sampling import wanted_rows
from gateway.mirror.scoring import attempt
from gateway.pairs import OTHER, Mirrored, pairs_block
from gateway.record import REASON_NUMBERS
from gateway.servable import Servable
from gateway.wire.routes import ServedVersion, Shadow

MOST_ROWS: Final = 4_096
"""Rows that wait: some seconds of work. More would only be older."""


class Sides(NamedTuple):
    """The two versions that are compared, loaded."""

    shadow: Servable
    other: Servable


class Task:
    """The wanted rows of one block, with what either version is given."""

    def __init__(self, block: Block, rows: list[int], inputs: tuple[Inputs, Inputs]) -> None:
        self.block = block
        self.rows = deque(rows)
        self.shadow, self.other = inputs
        self.kept: list[tuple[int, Scored, Scored]] = []


class Lane:
    """A shadow, and the rows that wait for it."""

    def __init__(self, shadow: Shadow, other: ServedVersion, comparison: Comparison, mark: Mark) -> None:
        self.shadow = shadow
        self.other = other
        self.comparison = comparison
        self.sides: Sides | None = None
        self.spent_ns = 0
        """The processor's time that it took, to share that fairly."""
        self.grown_bytes = 0
        """By how much the process grew in its turns."""
        self._mark = mark
        self._queue: deque[tuple[Block, list[int]]] = deque()
        self._waiting = 0
        self._task: Task | None = None

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return self._waiting + (len(self._task.rows) if self._task else 0)

    @property
    def busy(self) -> bool:
        """Whether a row waits."""
        return bool(self._queue) or self._task is not None

    def offer(self, block: Block) -> None:
        """Takes the rows of a block that are to be mirrored; where that is too much, the oldest ones are let go."""
        rows = wanted_rows(block, self.shadow)
        if not rows:
            return
        if self.sides is None:
            self.comparison.dropped[Drop.NOT_LOADED] += len(rows)
        elif block.feature_sequence < self.shadow.version.feature_sequence:
            self.comparison.dropped[Drop.FEATURES_AWAITED] += len(rows)
        else:
            self._queue.append((block, rows))
            self._waiting += len(rows)
        while self._waiting > MOST_ROWS:
            _, oldest = self._queue.popleft()
            self._waiting -= len(oldest)
            self.comparison.dropped[Drop.BEHIND] += len(oldest)

    def step(
        self, store: OnlineStore, documents: Mapping[tuple[str, int], ModelDocument], pairs: JournalWriter
    ) -> None:
        """Has both versions score the next row."""
        task = self._task or self._prepare(store, documents)
        if task is None or self.sides is None:
            return
        self._task = task
        row = task.rows.popleft()
        prediction_id = f"{task.block.prefix}{task.block.first_row + row:012x}"
        if prediction_id not in self.comparison.poison:
            self._score(self.sides, task, row)
        if not task.rows:
            self._task = None
            if task.kept:
                pairs.append(self._journalled(self.sides, task))

    def _prepare(self, store: OnlineStore, documents: Mapping[tuple[str, int], ModelDocument]) -> Task | None:
        block, rows = self._queue.popleft()
        self._waiting -= len(rows)
        answered = documents.get((block.model, block.version))
        if answered is None or self.sides is None:
            self.comparison.dropped[Drop.NOT_LOADED] += len(rows)
            return None
        try:
            with store as snapshot:
                found = [inputs_of(servable, block, answered, snapshot) for servable in self.sides]
        except NotJournalledError:
            self.comparison.dropped[Drop.NOT_JOURNALLED] += len(rows)
            return None
        return Task(block, rows, (found[0], found[1]))

    def _score(self, sides: Sides, task: Task, row: int) -> None:
        """Runs both, in an order drawn by a coin: who comes second finds warm caches."""
        first = random.getrandbits(1)
        said: dict[bool, Scored | None] = {}
        for is_shadow in (bool(first), not first):
            block = task.block
            doing = Doing.SHADOW if is_shadow else Doing.OTHER
            self._mark.begin(doing, self.shadow.rollout_id, block.prefix, block.first_row + row)
            servable, inputs = (sides.shadow, task.shadow) if is_shadow else (sides.other, task.other)
            said[is_shadow] = attempt(servable, inputs, row)
            self._mark.end()
        shadow, other = said[True], said[False]
        if shadow is None or other is None:
            self.comparison.dropped[Drop.STARVED] += 1
            return
        flipped = Flip()
        if shadow.reason is None and other.reason is None:
            documents = sides.shadow.document, sides.other.document
            flipped = flip((documents[0], shadow.decision), (documents[1], other.decision))
        limits = self.shadow.latency_slack, self.shadow.slo_ns
        self.comparison.add((shadow, other), flipped, task.other.segments[row], limits)
        task.kept.append((row, shadow, other))

    def _journalled(self, sides: Sides, task: Task) -> Block:
        """The block of the mirror's own journal for a task that is done."""
        live = task.block.rows[[row for row, _, _ in task.kept]]
        rows, others = np.zeros(len(task.kept), ROW), np.zeros(len(task.kept), OTHER)
        rows["entity_hash"], rows["arm"], rows["feature_age_ms"] = live["entity_hash"], live["arm"], -1
        said = [shadow for _, shadow, _ in task.kept], [other for _, _, other in task.kept]
        for target, servable, scored in zip((rows, others), sides, said, strict=True):
            target["score"] = [one.score for one in scored]
            target["decision"] = [servable.labels.get(one.decision, -1) for one in scored]
            target["reason"] = [0 if one.reason is None else REASON_NUMBERS[one.reason] for one in scored]
        others["row"] = [task.block.first_row + row for row, _, _ in task.kept]
        for name, scored in zip(("shadow_ns", "other_ns"), said, strict=True):
            others[name] = [one.run_ns for one in scored]
        shadow = self.shadow.rollout_id, self.shadow.version.version
        return pairs_block(task.block, shadow, self.other.version, Mirrored(rows, others))


def next_lane(lanes: list[Lane]) -> Lane | None:
    """Whose turn it is: of those that have something to do, the one that took least of the processor so far.

    A slow shadow so waits for the others, and they not for it. Who had nothing to do has saved nothing up.
    """
    busy = [lane for lane in lanes if lane.busy]
    if not busy:
        return None
    chosen = min(busy, key=lambda lane: lane.spent_ns)
    for lane in lanes:
        if not lane.busy:
            lane.spent_ns = max(lane.spent_ns, chosen.spent_ns)
    return chosen
