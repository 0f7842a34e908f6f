"""What the journal keeps of a run, and what its calls are told."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from hashlib import blake2b
from math import nan
from typing import Any, Final

import numpy as np

from gateway.contract.errors import Fault, Reason
from gateway.journal import (
    FLAG_STALE,
    FLAG_UNKNOWN,
    ROLLOUT_FOLLOWS,
    ROLLOUT_REPEATED,
    ROLLOUT_SLOW,
    ROLLOUT_STANDS_IN,
    ROW,
    Block,
    JournalWriter,
)
from gateway.request import Answers, Arm, Mixed, Request, Slice
from gateway.run import NEVER_NS, Found, Inferred, Part, Role, Run

NS_PER_MS: Final = 1_000_000
MOST_EXAMPLE: Final = 300
"""Characters of a fault's message that the journal keeps."""
REASON_NUMBERS: Final = {reason: index + 1 for index, reason in enumerate(Reason)}


def _blank(arm: Arm) -> bytes:
    row = np.zeros(1, ROW)
    row["score"], row["feature_age_ms"], row["decision"] = nan, -1, -1
    row["arm"] = row["answered_by"] = arm
    return row.tobytes()


BLANKS: Final = {arm: _blank(arm) for arm in Arm}
"""A row of each arm before anything is known of it."""


def answer(run: Run, inferred: Inferred, found: Found, now_ns: int, journal: JournalWriter) -> Answers:
    """What the rows of a run are told: their numbers are those that the journal gives next."""
    served, results = run.servable.served, inferred.results
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


def block(
    run: Run, answers: Answers, found: Found, time_ns: int, stages_ns: tuple[int, ...], traces: Mapping[int, str]
) -> Block:
    """The journal's block for a run; `traces` are the trace contexts of the batch, by call."""
    servable, canary = run.servable, run.canary
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
    if canary is not None:
        rows["weight_bps"] = canary.weight_bps
        _mark(rows, run)
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
        labels=found.labels,
        rollout_id=canary.rollout_id if canary else 0,
        step=canary.step if canary else 0,
        notes=_run_notes(run, traces) if run.errors or traces else b"",
    )


def _mark(rows: Any, run: Run) -> None:
    """Says of each row what it is to the evidence."""
    if run.role is Role.STANDS_IN:
        rows["rollout_flags"] = ROLLOUT_STANDS_IN
        rows["answered_by"] = Arm.CHAMPION
    for row in run.repeated:
        rows["rollout_flags"][row] |= ROLLOUT_REPEATED
        rows["answered_by"][row] = Arm.UNASSIGNED
    if run.slow:
        rows["rollout_flags"] |= ROLLOUT_SLOW
    for row in run.follows:
        rows["rollout_flags"][row] |= ROLLOUT_FOLLOWS


def refusals(
    refused: Mapping[int, Fault], revision: int, time_ns: int, stages_ns: tuple[int, ...], traces: Mapping[int, str]
) -> Block:
    """The journal's block for calls that were refused before they had a version: a row each, of no model."""
    numbers = [REASON_NUMBERS[fault.reason] for fault in refused.values()]
    rows = np.frombuffer(bytearray(BLANKS[Arm.UNASSIGNED] * len(numbers)), ROW)
    rows["reason"] = numbers
    examples = {fault.reason: fault.message for fault in refused.values()}
    traced = [(row, row + 1, traces[call]) for row, call in enumerate(refused) if call in traces]
    return Block("", 0, revision, 0, time_ns, stages_ns, rows, (), notes=_notes(examples, traced))


def _run_notes(run: Run, traces: Mapping[int, str]) -> bytes:
    examples = {fault.reason: fault.message for fault in run.errors.values()}
    if Reason.MODEL_FAILED in examples:
        examples[Reason.MODEL_FAILED] = run.servable.last_error  # what no caller is told
    return _notes(examples, [(part.start, part.stop, traces[part.call]) for part in run.parts if part.call in traces])


def _notes(examples: Mapping[Reason, str], traced: Sequence[tuple[int, int, str]]) -> bytes:
    if not examples and not traced:
        return b""
    if not examples:  # digits and dashes need no escaping, and every traced call comes here
        return b'{"traces": [%s]}' % ",".join(f'[{start}, {stop}, "{text}"]' for start, stop, text in traced).encode()
    shortened = {reason: message[:MOST_EXAMPLE] for reason, message in examples.items()}
    return json.dumps({"faults": shortened, "traces": traced}).encode()


class Pieces:
    """Rows of calls that several runs answered, until each call's are put together again."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[Request, dict[int, tuple[Answers, int]]]] = {}

    def add(self, part: Part, answers: Answers, repeated: Container[int]) -> None:
        """Takes a run's rows of a call, but for those that another run answers."""
        _, found = self._calls.setdefault(part.call, (part.request, {}))
        own = part.rows if part.rows is not None else range(part.stop - part.start)
        found.update(
            (own[row - part.start], (answers, row)) for row in range(part.start, part.stop) if row not in repeated
        )

    def joined(self) -> dict[int, Slice]:
        """Every call's rows, in the call's order."""
        return {
            call: _join(request, [found[row] for row in sorted(found)])
            for call, (request, found) in self._calls.items()
        }


def _join(request: Request, rows: list[tuple[Answers, int]]) -> Slice:
    answers, first = rows[0]
    if all(other is answers and row == first + index for index, (other, row) in enumerate(rows)):
        return Slice(request, answers, first, first + len(rows))
    return Slice(request, _merged(rows), 0, len(rows))


def _merged(rows: list[tuple[Answers, int]]) -> Answers:
    """The answers of several runs as those of one; a column that one of them has is there for all rows."""
    first = rows[0][0]
    everyone = [answers for answers, _ in rows]
    return first._replace(
        scores=[answers.scores[row] for answers, row in rows],
        decisions=[answers.decisions[row] if answers.decisions else "" for answers, row in rows]
        if any(answers.decisions for answers in everyone)
        else None,
        rankings=[answers.rankings[row] if answers.rankings else () for answers, row in rows]
        if any(answers.rankings for answers in everyone)
        else None,
        defaulted=[answers.defaulted[row] if answers.defaulted else 0 for answers, row in rows]
        if any(answers.defaulted for answers in everyone)
        else None,
        ages_ms=[answers.ages_ms[row] if answers.ages_ms else -1 for answers, row in rows]
        if any(answers.ages_ms for answers in everyone)
        else None,
        unknown=np.array([answers.unknown is not None and bool(answers.unknown[row]) for answers, row in rows]),
        stale=np.array([answers.stale is not None and bool(answers.stale[row]) for answers, row in rows]),
        errors={index: answers.errors[row] for index, (answers, row) in enumerate(rows) if row in answers.errors},
        mixed=Mixed(
            [answers.version for answers in everyone],
            [answers.arm for answers in everyone],
            [f"{answers.raw_prefix.decode()}{answers.first_row + row:012x}" for answers, row in rows],
        ),
    )


def _ages_ms(oldest_ns: list[int], now_ns: int) -> list[int]:
    """Ages in milliseconds, 0 for event times to come and -1 where there is none."""
    if max(oldest_ns) <= now_ns:
        return [(now_ns - event_ns) // NS_PER_MS for event_ns in oldest_ns]
    return [-1 if event_ns == NEVER_NS else max(now_ns - event_ns, 0) // NS_PER_MS for event_ns in oldest_ns]
