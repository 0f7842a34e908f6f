"""What the journal keeps of a run, and what its calls are told."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from math import nan
from typing import Final

import numpy as np

from gateway.contract.errors import Fault, Reason
from gateway.contract.routing import WHOLE_BPS
from gateway.journal import FLAG_STALE, FLAG_UNKNOWN, ROW, Block, JournalWriter
from gateway.request import Answers, Arm
from gateway.run import NEVER_NS, Found, Inferred, Run

NS_PER_MS: Final = 1_000_000
REASON_NUMBERS: Final = {reason: index + 1 for index, reason in enumerate(Reason)}


def _blank(arm: Arm) -> bytes:
    row = np.zeros(1, ROW)
    row["score"], row["feature_age_ms"], row["decision"] = nan, -1, -1
    row["weight_bps"] = WHOLE_BPS if arm is Arm.CHAMPION else 0
    row["arm"] = row["answered_by"] = arm
    return row.tobytes()


BLANKS: Final = {arm: _blank(arm) for arm in Arm}
"""A row of each arm before anything is known of it but that the champion had all of the traffic."""


def answer(run: Run, inferred: Inferred, found: Found, now_ns: int, journal: JournalWriter) -> Answers:
    """What the rows of a run are told: their numbers are those that the journal gives next."""
    served, results = run.route.servable.served, inferred.results
    scores = results.scores
    for row in run.errors:
        scores[row] = nan
    stale = [settled.stale for settled in found.settled if np.count_nonzero(settled.stale)]
    return Answers(
        model=served.model,
        version=served.version,
        revision=run.route.revision,
        arm=run.arm,
        raw_prefix=journal.prefix.encode(),
        first_row=journal.next_row,
        scores=scores,
        decisions=results.decisions,
        rankings=results.rankings,
        outputs=inferred.outputs,
        defaulted=np.sum([s.defaulted for s in found.settled], axis=0).tolist() if found.settled else None,
        ages_ms=None if found.oldest_ns is None else _ages_ms(found.oldest_ns, now_ns),
        unknown=found.unknown,
        stale=np.logical_or.reduce(stale) if stale else None,
        errors=run.errors,
        marks=run.route.marks,
    )


def block(run: Run, answers: Answers, found: Found, time_ns: int, stages_ns: tuple[int, ...]) -> Block:
    """The journal's block for a run."""
    servable = run.route.servable
    rows = np.frombuffer(bytearray(BLANKS[answers.arm] * run.n), ROW)
    if servable.assign_by is not None and found.keys:
        digests = [blake2b(key, digest_size=8).digest() for key in found.keys[servable.assign_by]]
        rows["entity_hash"] = np.frombuffer(b"".join(digests), "<u8")
    rows["score"] = answers.scores
    if answers.ages_ms is not None:
        rows["feature_age_ms"] = answers.ages_ms
    if answers.decisions is not None:
        rows["decision"] = [servable.labels.get(decision, -1) for decision in answers.decisions]
    if answers.defaulted is not None:
        rows["defaulted"] = answers.defaulted
    if answers.unknown is not None:
        rows["flags"] |= answers.unknown * np.uint8(FLAG_UNKNOWN)
    if answers.stale is not None:
        rows["flags"] |= answers.stale * np.uint8(FLAG_STALE)
    if answers.marks:
        rows["flags"] |= np.uint8(answers.marks)
    for row, fault in run.errors.items():
        rows["reason"][row] = REASON_NUMBERS[fault.reason]
        rows["answered_by"][row] = Arm.UNASSIGNED
    return Block(
        model=answers.model,
        version=answers.version,
        revision=answers.revision,
        feature_sequence=found.sequence,
        time_ns=time_ns,
        stages_ns=stages_ns,
        rows=rows,
        payload=found.payload,
    )


def refusals(faults: Iterable[Fault], revision: int, time_ns: int, stages_ns: tuple[int, ...]) -> Block:
    """The journal's block for calls that were refused before they had a version: a row each, of no model."""
    numbers = [REASON_NUMBERS[fault.reason] for fault in faults]
    rows = np.frombuffer(bytearray(BLANKS[Arm.UNASSIGNED] * len(numbers)), ROW)
    rows["reason"] = numbers
    return Block("", 0, revision, 0, time_ns, stages_ns, rows, ())


def _ages_ms(oldest_ns: list[int], now_ns: int) -> list[int]:
    """Ages in milliseconds, 0 for event times to come and -1 where there is none."""
    if max(oldest_ns) <= now_ns:
        return [(now_ns - event_ns) // NS_PER_MS for event_ns in oldest_ns]
    return [-1 if event_ns == NEVER_NS else max(now_ns - event_ns, 0) // NS_PER_MS for event_ns in oldest_ns]
