"""The request path: one straight line from the bytes of a batch of calls to the bytes of their replies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import nan
from typing import Final, NamedTuple

from gateway.assignment import NOTHING, assign, challenger_time, count_attempts, stand_ins
from gateway.contract.errors import Fault, Reason
from gateway.contract.tensors import Array, Results
from gateway.fallback import fall_back, set_aside
from gateway.features.store import OnlineStore
from gateway.infer import TOO_SLOW, infer
from gateway.journal import STAGES, JournalWriter
from gateway.record import Pieces, answer, block, refusals
from gateway.request import Arm, Request, Slice
from gateway.run import Canary, Found, Inferred, Role, Run, gather
from gateway.servable import Servable
from gateway.transport import Call, Reply
from gateway.trying import UNMARKED, TryMark
from gateway.wire.methods import METHODS
from gateway.wire.status import internal


class Gathered(NamedTuple):
    """A run with its inputs."""

    run: Run
    inputs: dict[str, Array]
    found: Found


EXPIRED: Final = Fault(Reason.DEADLINE_EXPIRED, "the deadline passed before the call's turn came; nothing was scored")


class Pipeline:
    """Answers batches of calls. Used by one thread; whoever loads versions stores a new `snapshot`."""

    def __init__(
        self, store: OnlineStore, journal: JournalWriter, max_message_bytes: int, trying: TryMark = UNMARKED
    ) -> None:
        self.snapshot = NOTHING
        self.store = store
        self.journal = journal
        self.max_message_bytes = max_message_bytes
        self.trying = trying
        """Where it is marked that a challenger runs, for who finds this process dead or hung."""
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
            self._record_failure(len(calls), fault)
            return [METHODS[call.method].refuse(None, fault) for call in calls]
        finally:
            self.runs = ()

    def in_flight(self) -> dict[tuple[str, int], int]:
        """Rows assigned and not yet answered, by model and version. May be called from another thread."""
        counts: dict[tuple[str, int], int] = {}
        for run in self.runs:
            served = run.servable.served
            counts[served.model, served.version] = counts.get((served.model, served.version), 0) + run.n
        return counts

    def _process(self, calls: Sequence[Call]) -> list[Reply]:
        refused: dict[int, Fault] = {}
        laps = [time.perf_counter_ns()]
        requests = self._decode(calls, refused)
        laps.append(time.perf_counter_ns())
        routed, declared = set_aside(self.snapshot, requests, refused) if self.snapshot.stopped else (requests, {})
        self.runs = runs = assign(self.snapshot, routed, refused, time.monotonic_ns())
        laps.append(time.perf_counter_ns())
        gathered = self._gather(runs)
        laps.append(time.perf_counter_ns())
        inferred = [self._infer(item, refused) for item in gathered]
        for run in runs:
            if run.arm is Arm.CHALLENGER:
                self._stand_in(runs, gathered, inferred, refused)
                break
        laps.append(time.perf_counter_ns())
        traces = {}
        for index, call in enumerate(calls):
            if call.trace:
                traces[index] = call.trace
        slices = fall_back(declared, self.journal, time.time_ns(), (0,) * len(STAGES)) if declared else {}
        slices |= self._record(gathered, inferred, refused, laps, traces)
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

    def _stand_in(
        self, runs: Sequence[Run], gathered: list[Gathered], inferred: list[Inferred], refused: dict[int, Fault]
    ) -> None:
        """Has the control answer the rows on which a challenger failed, and adds what it says to the rest."""
        again = stand_ins(runs)
        if again:
            self.runs = [*runs, *again]
            more = self._gather(again)
            gathered += more
            inferred += [self._infer(item, refused) for item in more]
        count_attempts(runs, again)

    def _infer(self, item: Gathered, refused: dict[int, Fault]) -> Inferred:
        """Runs the model, unless everybody who asked has stopped waiting by now."""
        now_ns, run = time.monotonic_ns(), item.run
        late = [part for part in run.parts if part.request.deadline_ns <= now_ns]
        for part in late:
            refused[part.call] = EXPIRED
            run.errors.update(dict.fromkeys(range(part.start, part.stop), EXPIRED))
        if len(late) == len(run.parts) or run.role is Role.DECLINED:
            return Inferred(Results([nan] * run.n, None, None), {})
        if run.canary is None:
            return infer(run, item.inputs)
        return self._try(run, run.canary, item.inputs, now_ns)

    def _try(self, run: Run, canary: Canary, inputs: dict[str, Array], now_ns: int) -> Inferred:
        """Runs one of two versions that are compared, by one measure: what a challenger would not have had the time
        for proves nothing of either, and what it would have been ended for counts against both."""
        left_ns = min(part.request.deadline_ns for part in run.parts) - now_ns
        patience_ns = challenger_time(left_ns, canary.control.slow_ns)
        if not patience_ns:
            run.follows.update(range(run.n))
        if run.servable is not canary.challenger:
            return _run_control(run, canary.control, inputs, now_ns, patience_ns)
        if not patience_ns:
            run.errors.update(dict.fromkeys(range(run.n), TOO_SLOW))
            return Inferred(Results([nan] * run.n, None, None), {})
        self.trying.begin(canary.rollout_id)
        try:
            return infer(run, inputs, now_ns + patience_ns)
        finally:
            self.trying.end()

    def _record(
        self,
        gathered: Sequence[Gathered],
        inferred: Sequence[Inferred],
        refused: Mapping[int, Fault],
        laps: list[int],
        traces: Mapping[int, str],
    ) -> dict[int, Slice]:
        """Appends a block for each run and one for the calls that came to none; returns each call's answers."""
        now_ns, journal = time.time_ns(), self.journal
        stages_ns = (*(after - before for before, after in pairwise(laps)), *self._tail_ns)
        slices: dict[int, Slice] = {}
        pieces: Pieces | None = None
        for (run, _, found), said in zip(gathered, inferred, strict=True):
            answers = answer(run, said, found, now_ns, journal)
            journal.append(block(run, answers, found, now_ns, stages_ns, traces))
            for part in run.parts:
                if part.rows is None and not run.repeated:
                    slices[part.call] = Slice(part.request, answers, part.start, part.stop)
                else:
                    pieces = pieces or Pieces()
                    pieces.add(part, answers, run.repeated)
        if pieces:
            slices |= pieces.joined()
        if refused and (unassigned := {call: fault for call, fault in refused.items() if call not in slices}):
            journal.append(refusals(unassigned, self.snapshot.revision, now_ns, stages_ns, traces))
        return slices

    def _record_failure(self, calls: int, fault: Fault) -> None:
        """Appends a row for each call of a batch that a fault of ours ended: its id is found from the journal too."""
        with contextlib.suppress(Exception):  # it may be the journal that failed, and the callers must get an answer
            refused = dict.fromkeys(range(calls), fault)
            nothing_ns = (0,) * len(STAGES)
            self.journal.append(refusals(refused, self.snapshot.revision, time.time_ns(), nothing_ns, {}))


def _run_control(run: Run, control: Servable, inputs: dict[str, Array], began_ns: int, patience_ns: int) -> Inferred:
    """Runs the control, and notes whether a challenger would have been ended meanwhile."""
    inferred = infer(run, inputs)
    took_ns = time.monotonic_ns() - began_ns
    if took_ns > patience_ns > 0:
        run.slow = True
        run.follows.update(range(1, run.n))
    control.slow_ns = max(took_ns, control.slow_ns - control.slow_ns // 1000)
    return inferred


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
