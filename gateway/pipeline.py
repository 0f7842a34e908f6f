"""The request path: one straight line from the bytes of a batch of calls to the bytes of their replies."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import nan
from typing import Any, Final, NamedTuple

from gateway.conform import MAX_ROWS, Columns, conform, listed
from gateway.conform_tensors import conform_tensors
from gateway.contract.errors import Fault, Reason
from gateway.contract.tensors import Array, Results
from gateway.features.store import OnlineStore
from gateway.journal import JournalWriter
from gateway.record import answer, block, refusals
from gateway.request import Arm, Request, Slice
from gateway.run import Found, Inferred, Part, Route, Run, gather, infer
from gateway.servable import Servable
from gateway.transport import Call, Reply
from gateway.wire.methods import METHODS
from gateway.wire.status import internal


class Snapshot(NamedTuple):
    """What a worker serves: swapped whole, never edited."""

    revision: int
    """The newest revision that is in force for every model; 0 before the first route table."""
    routes: Mapping[str, Route]
    """Who answers, by model."""
    loading: frozenset[str]
    """Models that the route table names and that nobody answers for yet."""
    known: bool
    """Whether there was a route table at all."""


class Gathered(NamedTuple):
    """A run with its inputs."""

    run: Run
    inputs: dict[str, Array]
    found: Found


CHAMPION: Final = "champion"
CANARY: Final = "canary"
"""Labels that stand for a version: who answers by default, and who a rollout is trying."""
NOTHING: Final = Snapshot(0, {}, frozenset(), known=False)
EXPIRED: Final = Fault(Reason.DEADLINE_EXPIRED, "the deadline passed before the call's turn came; nothing was scored")


class Pipeline:
    """Answers batches of calls. Used by one thread; whoever loads versions stores a new `snapshot`."""

    def __init__(self, store: OnlineStore, journal: JournalWriter, max_message_bytes: int) -> None:
        self.snapshot = NOTHING
        self.store = store
        self.journal = journal
        self.max_message_bytes = max_message_bytes
        self.runs: Sequence[Run] = ()
        """The runs of the batch under way: the rows that are assigned and not yet answered."""
        self._tail_ns = (0, 0)
        """How long the previous batch took to record and to reply: a block is written before its own are known."""

    def process(self, calls: Sequence[Call]) -> list[Reply]:
        """Answers each call, in their order. Never raises."""
        try:
            return self._process(calls)
        except Exception as error:  # a fault of ours; the worker and the next batch must live on
            fault = internal(error)
            return [METHODS[call.method].refuse(None, fault) for call in calls]
        finally:
            self.runs = ()

    def in_flight(self) -> dict[tuple[str, int], int]:
        """Rows assigned and not yet answered, by model and version. May be called from another thread."""
        counts: dict[tuple[str, int], int] = {}
        for run in self.runs:
            served = run.route.servable.served
            counts[served.model, served.version] = counts.get((served.model, served.version), 0) + run.n
        return counts

    def _process(self, calls: Sequence[Call]) -> list[Reply]:
        refused: dict[int, Fault] = {}
        laps = [time.perf_counter_ns()]
        requests = self._decode(calls, refused)
        laps.append(time.perf_counter_ns())
        self.runs = runs = _route(self.snapshot, requests, refused)
        laps.append(time.perf_counter_ns())
        gathered = self._gather(runs)
        laps.append(time.perf_counter_ns())
        inferred = [self._infer(item, refused) for item in gathered]
        laps.append(time.perf_counter_ns())
        slices = self._record(gathered, inferred, refused, laps)
        laps.append(time.perf_counter_ns())
        replies = [
            METHODS[call.method].refuse(request, refused[index]) if index in refused else _encode(call, slices[index])
            for index, (call, request) in enumerate(zip(calls, requests, strict=True))
        ]
        self._tail_ns = (laps[-1] - laps[-2], time.perf_counter_ns() - laps[-1])
        return replies

    def _decode(self, calls: Sequence[Call], refused: dict[int, Fault]) -> list[Request | None]:
        """Parses every call; one that cannot be parsed, or that came too late, is refused."""
        now_ns, limit = time.monotonic_ns(), self.max_message_bytes
        requests: list[Request | None] = [None] * len(calls)
        for index, call in enumerate(calls):
            if call.deadline_ns <= now_ns:
                refused[index] = EXPIRED
            elif len(call.request) > limit:
                refused[index] = _too_large(len(call.request), limit)
            else:
                try:
                    requests[index] = METHODS[call.method].decode(call)
                except Fault as fault:
                    refused[index] = fault
        return requests

    def _gather(self, runs: Sequence[Run]) -> list[Gathered]:
        """Reads the features of all runs in one snapshot of the online store."""
        now_ns = time.time_ns()
        with self.store as store:
            return [Gathered(run, *gather(run, store, now_ns)) for run in runs]

    def _infer(self, item: Gathered, refused: dict[int, Fault]) -> Inferred:
        """Runs the model, unless everybody who asked has stopped waiting by now."""
        now_ns, run = time.monotonic_ns(), item.run
        late = [part for part in run.parts if part.request.deadline_ns <= now_ns]
        for part in late:
            refused[part.call] = EXPIRED
            run.errors.update(dict.fromkeys(range(part.start, part.stop), EXPIRED))
        if len(late) == len(run.parts):
            return Inferred(Results([nan] * run.n, None, None), {})
        return infer(run, item.inputs)

    def _record(
        self, gathered: Sequence[Gathered], inferred: Sequence[Inferred], refused: Mapping[int, Fault], laps: list[int]
    ) -> dict[int, Slice]:
        """Appends a block for each run and one for the calls that came to none; returns each call's answers."""
        now_ns, journal = time.time_ns(), self.journal
        stages_ns = (*(after - before for before, after in pairwise(laps)), *self._tail_ns)
        slices: dict[int, Slice] = {}
        for (run, _, found), said in zip(gathered, inferred, strict=True):
            answers = answer(run, said, found, now_ns, journal)
            journal.append(block(run, answers, found, now_ns, stages_ns))
            slices |= {part.call: Slice(part.request, answers, part.start, part.stop) for part in run.parts}
        if faults := [fault for call, fault in refused.items() if call not in slices]:
            journal.append(refusals(faults, self.snapshot.revision, now_ns, stages_ns))
        return slices


def _route(snapshot: Snapshot, requests: Sequence[Request | None], refused: dict[int, Fault]) -> list[Run]:
    """Assigns every row, and puts the rows of one servable and arm side by side, at most 256 to a run."""
    runs: list[Run] = []
    filling: dict[tuple[Any, ...], Run] = {}
    for index, request in enumerate(requests):
        if request is None:
            continue
        try:
            route, arm = assign(snapshot, request.model, request.version)
            columns = _columns(route.servable, request)
        except Fault as fault:
            refused[index] = fault
            continue
        alike = (request.model, arm, request.outputs, columns.tensors is None)
        run = filling.get(alike)
        if run is None or run.n + columns.n > MAX_ROWS:
            run = filling[alike] = Run(route, arm)
            runs.append(run)
        run.parts.append(Part(index, request, columns, run.n, run.n + columns.n))
        run.n += columns.n
    return runs


def _columns(servable: Servable, request: Request) -> Columns:
    if request.outputs is None:
        return conform(servable.document, request)
    if absent := set(request.outputs) - {item.name for item in servable.outputs}:
        names = listed([item.name for item in servable.outputs], "none")
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"unexpected inference output {min(absent)[:100]!r} for model {request.model!r}; it has {names}",
        )
    return conform_tensors(servable.document, servable.inputs, request.model, request.tensors)


def assign(snapshot: Snapshot, model: str, version: str) -> tuple[Route, Arm]:
    """Who answers for a model in a version (a number, a label, or "" for whichever the route names), and as which arm.

    Raises Fault where nobody does.
    """
    route = snapshot.routes.get(model)
    if route is None:
        raise _nobody(snapshot, model)
    if not version:
        return route, Arm.CHAMPION
    served = route.servable.served.version
    if version in (CHAMPION, str(served)):
        return route, Arm.PINNED
    if not version.isdecimal() and version != CANARY:
        raise Fault(
            Reason.VERSION_INVALID,
            f"version {version[:100]!r} is neither a number nor one of the labels {CHAMPION!r} and {CANARY!r}",
        )
    raise Fault(
        Reason.VERSION_NOT_SERVED,
        f"version {version[:100]} of model {model} is not served here, version {served} is; "
        "name no version to get whichever the route names",
    )


def _nobody(snapshot: Snapshot, model: str) -> Fault:
    if not snapshot.known or model in snapshot.loading:
        return Fault(Reason.NOT_READY, "the gateway has not loaded this model yet; repeat the call")
    if not model:
        return Fault(Reason.MODEL_UNKNOWN, "the call names no model; set `model`")
    return Fault(Reason.MODEL_UNKNOWN, f"no model {model[:100]!r} is served here; `interlock status` says which are")


def _too_large(size: int, limit: int) -> Fault:
    return Fault(
        Reason.MESSAGE_TOO_LARGE,
        f"the message has {size} bytes; this gateway takes {limit} (gateway.max_message_bytes); split the batch",
    )


def _encode(call: Call, part: Slice) -> Reply:
    method = METHODS[call.method]
    errors = part.answers.errors
    if method.whole and errors:
        for row in range(part.start, part.stop):
            if row in errors:
                return method.refuse(part.request, errors[row])
    return Reply(method.encode(part))
