"""What the journal keeps of a run, and what its calls are told."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import numpy as np

from gateway.contract.errors import Fault, Reason
from gateway.contract.routing import WHOLE_BPS
from gateway.contract.tensors import Results
from gateway.journal import ROW, Block, JournalWriter
from gateway.request import Answers, Arm
from gateway.run import NEVER_NS, Found, Run

NS_PER_MS: Final = 1_000_000
REASON_NUMBERS: Final = {reason: index + 1 for index, reason in enumerate(Reason)}
FLAG_UNKNOWN: Final = 1
FLAG_STALE: Final = 2


def answer(run: Run, results: Results, found: Found, now_ns: int, journal: JournalWriter) -> Answers:
    """What the rows of a run are told: their numbers are those that the journal gives next."""
    served = run.route.servable.served
    scores = results.scores
    if run.errors:
        scores[list(run.errors)] = np.nan
    ages_ms = None
    if found.oldest_ns is not None:
        ages_ms = np.maximum(now_ns - found.oldest_ns, 0) // NS_PER_MS
        ages_ms[found.oldest_ns == NEVER_NS] = -1
    stale = [settled.stale for settled in found.settled if settled.stale.any()]
    return Answers(
        model=served.model,
        version=served.version,
        revision=run.route.revision,
        arm=run.arm,
        prefix=journal.prefix,
        first_row=journal.next_row,
        scores=scores,
        decisions=results.decisions,
        rankings=results.rankings,
        defaulted=np.sum([settled.defaulted for settled in found.settled], axis=0) if found.settled else None,
        ages_ms=ages_ms,
        unknown=found.unknown,
        stale=np.logical_or.reduce(stale) if stale else None,
        errors=run.errors,
    )


def block(run: Run, answers: Answers, found: Found, time_ns: int, stages_ns: tuple[int, ...]) -> Block:
    """The journal's block for a run."""
    servable = run.route.servable
    rows = np.zeros(run.n, ROW)
    if servable.assign_by is not None:
        rows["entity_hash"] = [_hash(key) for key in found.keys[servable.assign_by]]
    rows["score"] = answers.scores
    rows["feature_age_ms"] = -1 if answers.ages_ms is None else answers.ages_ms
    rows["decision"] = [servable.labels[d] for d in answers.decisions] if answers.decisions else -1
    rows["weight_bps"] = WHOLE_BPS if answers.arm is Arm.CHAMPION else 0
    rows["arm"] = rows["answered_by"] = answers.arm
    if answers.defaulted is not None:
        rows["defaulted"] = answers.defaulted
    if answers.unknown is not None:
        rows["flags"] |= answers.unknown * np.uint8(FLAG_UNKNOWN)
    if answers.stale is not None:
        rows["flags"] |= answers.stale * np.uint8(FLAG_STALE)
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
    rows = np.zeros(len(numbers), ROW)
    rows["score"], rows["feature_age_ms"], rows["decision"], rows["reason"] = np.nan, -1, -1, numbers
    return Block("", 0, revision, 0, time_ns, stages_ns, rows, ())


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
