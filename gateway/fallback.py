"""Stopped models: callers get what the model's document declares, marked as such, or learn that nobody answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gateway.assignment import Snapshot, Stopped
from gateway.conform import conform
from gateway.contract.document import Fallback
from gateway.contract.errors import Fault, Reason
from gateway.journal import ROW, Block, JournalWriter
from gateway.record import BLANKS
from gateway.request import Answers, Arm, Mark, Request, Slice


class Declared(NamedTuple):
    """A call that is answered by the fallback of a stopped model."""

    request: Request
    stopped: Stopped
    fallback: Fallback
    n: int
    """How many rows it has."""


def set_aside(
    snapshot: Snapshot, requests: Sequence[Request | None], refused: dict[int, Fault]
) -> tuple[Sequence[Request | None], dict[int, Declared]]:
    """The requests without those for stopped models; these are declared answers, or are refused."""
    if not snapshot.stopped:
        return requests, {}
    left, declared = list(requests), {}
    for index, request in enumerate(requests):
        stopped = snapshot.stopped.get(request.model) if request is not None else None
        if request is None or stopped is None:
            continue
        left[index] = None
        try:
            declared[index] = _declared(request, stopped)
        except Fault as fault:
            refused[index] = fault
    return left, declared


def fall_back(
    declared: Mapping[int, Declared], journal: JournalWriter, time_ns: int, stages_ns: tuple[int, ...]
) -> dict[int, Slice]:
    """Answers the calls by their fallbacks, each with a block of the journal: no version answered, no arm was drawn."""
    slices = {}
    for call, (request, stopped, fallback, n) in declared.items():
        answers = Answers(
            model=request.model,
            version=0,
            revision=stopped.revision,
            arm=Arm.UNASSIGNED,
            raw_prefix=journal.prefix.encode(),
            first_row=journal.next_row,
            scores=[fallback.score] * n,
            decisions=None if fallback.decision is None else [fallback.decision] * n,
            rankings=None,
            outputs={},
            defaulted=None,
            ages_ms=None,
            unknown=None,
            stale=None,
            errors={},
            marks=Mark.FALLBACK,
        )
        rows = np.frombuffer(bytearray(BLANKS[Arm.UNASSIGNED] * n), ROW)
        rows["score"], rows["flags"] = fallback.score, Mark.FALLBACK
        journal.append(Block(request.model, 0, stopped.revision, 0, time_ns, stages_ns, rows, ()))
        slices[call] = Slice(request, answers, 0, n)
    return slices


def _declared(request: Request, stopped: Stopped) -> Declared:
    """What the document says to a call; raises Fault where it says nothing, or the call is none that it describes."""
    document = stopped.served.document
    if document.fallback is None or request.outputs is not None:
        # Whoever wants the graph's outputs gets no stand-in for them.
        raise Fault(
            Reason.MODEL_STOPPED,
            f"model {request.model} was stopped by an operator; nobody answers until it is started again",
        )
    return Declared(request, stopped, document.fallback, conform(document, request).n)
