"""What counts of a rollout's rows: each entity's first bad event, and its first scored row in each step. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.contract.alone import bad_event_evidence
from gateway.contract.distribution import score_bin
from gateway.contract.errors import Reason
from gateway.contract.evidence import Arms, counted, reached
from gateway.contract.routing import WHOLE_BPS
from gateway.journal import ROLLOUT_FOLLOWS, ROLLOUT_SLOW, ROLLOUT_STANDS_IN, Block
from gateway.record import REASON_NUMBERS
from gateway.request import Arm
from gateway.wire.routes import Canary

FIRST_BAD: Final = 1
FIRST_ROW: Final = 2
"""The kinds of a unit, by their numbers on the wire."""
ERRORS, NON_FINITE, REJECTED, DECISIONS = 1, 2, 4, 8
BITS: Final[Mapping[str, int]] = MappingProxyType(
    {"errors": ERRORS, "non_finite": NON_FINITE, "rejected": REJECTED, "decisions": DECISIONS}
)
"""The metrics by their bit on the wire."""
FAILURES: Final[Mapping[int, int]] = MappingProxyType(
    {
        REASON_NUMBERS[Reason.MODEL_FAILED]: ERRORS,
        REASON_NUMBERS[Reason.MODEL_TOO_SLOW]: ERRORS,
        REASON_NUMBERS[Reason.SCORE_NOT_FINITE]: NON_FINITE,
        REASON_NUMBERS[Reason.OUTPUT_REJECTED]: REJECTED,
        REASON_NUMBERS[Reason.FEATURE_MISSING]: REJECTED,
        REASON_NUMBERS[Reason.FEATURE_STALE]: REJECTED,
        REASON_NUMBERS[Reason.FEATURE_DAMAGED]: REJECTED,
        REASON_NUMBERS[Reason.INPUT_MISMATCH]: REJECTED,
    }
)
"""Which metric each failure of a version counts for. Rows with any other reason were not scored by anybody's fault of
the version's, and count for nothing."""


MOST_SCORED: Final = 1 << 18
"""First rows that a step tells of before it halves the share of units of which it does, again and again: a million
entities come to 600,000 first rows, a hundred million to less than three million."""


class Unit(NamedTuple):
    """One fact, told once. Its fields are those of the wire's EvidenceUnit."""

    kind: int
    entity_hash: int
    challenger: bool
    weight_bps: int
    step: int
    bad: int
    score_bin: int


class Counter:
    """The count of one rollout at this gateway: what was told before is told no more, whatever restarts."""

    def __init__(self, canary: Canary) -> None:
        self.canary = canary
        both = (canary.challenger, canary.control)
        self._decides = all(one.document.decision.kind == "threshold" for one in both)
        self._bad: dict[int, set[int]] = {bit: set() for bit in BITS.values()}
        self._step = 0
        self._scored: set[int] = set()
        self._rows = 0
        """First rows told of in the step."""
        self._counts: dict[str, Mapping[int, Arms]] = {metric: {} for metric in BITS}
        self.step = 0
        """The newest step of which a row was counted."""

    def take(self, block: Block) -> list[Unit]:
        """The new facts of a block of the rollout's rows."""
        return list(self._facts(block))

    def recall(self, units: Iterable[Unit]) -> None:
        """Takes what was told in an earlier life."""
        for unit in units:
            self._remember(unit)

    def breach(self) -> str:
        """Why this gateway's own evidence says to withdraw the challenger now; empty while it does not."""
        for metric, guard in self.canary.guards.items():
            found = bad_event_evidence(self._counts[metric], guard.rho, guard.two_sided)
            if reached(found, guard.alpha):
                arms = [sum(side) for side in zip(*self._counts[metric].values(), strict=True)]
                return (
                    f"{metric}: {arms[0]:,} in the challenger and {arms[1]:,} in the control at this gateway alone, "
                    f"which a sound version shows with a probability of at most {guard.alpha:.1g}"
                )
        return ""

    def _facts(self, block: Block) -> Iterator[Unit]:
        canary = self.canary
        for row in block.rows.tolist():
            raw, score, _, decision, weight_bps, reason, _, _, arm, _, rollout_flags, _ = row
            if rollout_flags & (ROLLOUT_FOLLOWS | ROLLOUT_STANDS_IN) or (reason and reason not in FAILURES):
                continue
            bad = FAILURES.get(reason, DECISIONS if self._decides and decision == 0 else 0)
            if rollout_flags & ROLLOUT_SLOW:
                bad = ERRORS  # what a challenger would have been ended for
            entity = salted(canary.salt, raw) if raw else 0
            challenger = arm == Arm.CHALLENGER
            told = Unit(
                FIRST_ROW, entity, challenger, weight_bps, block.step, bad, score_bin(canary.score_edges, score)
            )
            if self._is_new(told) and self._is_sampled(told):
                self._remember(told)
                yield told
            if bad:
                first = told._replace(kind=FIRST_BAD, step=0, score_bin=0)
                if self._is_new(first):
                    self._remember(first)
                    yield first

    def _is_new(self, unit: Unit) -> bool:
        if not unit.entity_hash:
            return True
        if unit.kind == FIRST_BAD:
            return unit.entity_hash not in self._bad[unit.bad]
        # A worker may still send rows of the step before: their entities had their row there.
        return unit.step > self._step or (unit.step == self._step and unit.entity_hash not in self._scored)

    def _is_sampled(self, first_row: Unit) -> bool:
        """Whether a first row counts: all do until there are many, and then fewer and fewer, so that memory is bounded.

        Chosen by the entity's own name, or by a draw where there is none, and by how many were told before: by nothing
        that depends on the arm or on what is bad, so that what is told proves as much as it did.
        """
        halvings = self._rows // MOST_SCORED if first_row.step == self._step else 0
        name = first_row.entity_hash >> 32 if first_row.entity_hash else random.getrandbits(32)
        return not name & ((1 << halvings) - 1)

    def _remember(self, unit: Unit) -> None:
        if unit.kind == FIRST_ROW:
            if unit.step > self._step:
                self._step, self._scored, self._rows = unit.step, set(), 0
                self.step = unit.step
            self._rows += 1
            if unit.entity_hash:
                self._scored.add(unit.entity_hash)
            return
        if unit.entity_hash:
            self._bad[unit.bad].add(unit.entity_hash)
        metric = next(name for name, bit in BITS.items() if bit == unit.bad)
        guard = self.canary.guards.get(metric)
        if guard is not None and (not unit.entity_hash or unit.entity_hash % WHOLE_BPS < guard.sample_bps):
            arms = Arms(1, 0) if unit.challenger else Arms(0, 1)
            self._counts[metric] = counted(self._counts[metric], unit.weight_bps, arms)


def salted(salt: bytes, entity_hash: int) -> int:
    """The entity's name in the evidence of one rollout: of another one, nobody can tell that it is the same."""
    return int.from_bytes(blake2b(entity_hash.to_bytes(8, "little"), key=salt, digest_size=8).digest(), "big")
