"""Assignment: which version each row of a batch of calls goes to, and what follows where a challenger fails. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.conform import MAX_ROWS, Columns, conform, listed
from gateway.conform_tensors import conform_tensors
from gateway.contract.errors import Fault, Reason
from gateway.contract.routing import WHOLE_BPS, is_challenger
from gateway.request import Arm, Request
from gateway.run import Canary, Part, Role, Route, Run
from gateway.servable import Servable
from gateway.wire.routes import ServedVersion

CHAMPION: Final = "champion"
CANARY: Final = "canary"
"""Labels that stand for a version: who answers by default, and who a rollout is trying."""
CALLERS: Final = frozenset(
    {Reason.ENTITY_MISMATCH, Reason.INPUT_MISMATCH, Reason.INPUT_NOT_FINITE, Reason.DEADLINE_EXPIRED}
)
"""Reasons that say nothing about the version: any other would have failed as well."""

BROKEN: Final = frozenset({Reason.MODEL_FAILED, Reason.MODEL_TOO_SLOW, Reason.SCORE_NOT_FINITE, Reason.OUTPUT_REJECTED})
"""Reasons that say that the version does not work. Inputs that it refuses, which a document may ask for, are no sign of
that: they count as evidence only."""
MARGIN_NS: Final = 1_000_000
"""What a challenger leaves the control beside the time that this needs."""
SHARE: Final = 4
"""A challenger has this part of the time that is left: the worker does nothing else meanwhile, and those who wait
behind must still be answered when it has failed three times and is given up."""


class Stopped(NamedTuple):
    """A model that is stopped: the version that would answer, for what its document declares instead."""

    served: ServedVersion
    revision: int


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
    stopped: Mapping[str, Stopped] = MappingProxyType({})
    """Models that nobody answers for, whoever is routed."""


NOTHING: Final = Snapshot(0, {}, frozenset(), known=False)


class Runs:
    """The runs of a batch while they are filled: rows of one servable and arm side by side, at most 256 to a run."""

    def __init__(self) -> None:
        self.all: list[Run] = []
        self._filling: dict[tuple[Any, ...], Run] = {}

    def add(self, run: Run, call: int, request: Request, columns: Columns, rows: Sequence[int] | None = None) -> Run:
        """Adds rows of a call to the run that is being filled and is like `run`, or to `run`; returns which."""
        # Members of an enum by their id, since they are hashed in Python.
        alike = (request.model, id(run.arm), id(run.role), id(run.servable), request.outputs, columns.tensors is None)
        current = self._filling.get(alike)
        if current is None or current.n + columns.n > MAX_ROWS:
            current = self._filling[alike] = run
            self.all.append(run)
        current.parts.append(Part(call, request, columns, current.n, current.n + columns.n, rows))
        current.n += columns.n
        return current


def assign(snapshot: Snapshot, requests: Sequence[Request | None], refused: dict[int, Fault], now_ns: int) -> list[Run]:
    """Assigns every row of the batch; calls that nobody answers are put to the refused ones.

    What leaves a challenger no time is not drawn for: whoever it would have gone to, it proves nothing. `now_ns` is
    monotonic.
    """
    runs = Runs()
    for index, request in enumerate(requests):
        if request is None:
            continue
        try:
            route, servable, arm = choose(snapshot, request.model, request.version)
            canary = route.canary
            if arm is not Arm.PINNED and canary is not None and _is_tried(canary, request.deadline_ns - now_ns):
                _assign_rows(runs, route, canary, index, request)
            else:
                if arm is not Arm.PINNED and canary is not None and canary.attempts.give_up:
                    servable = canary.control  # also where the challenger was promoted already
                runs.add(Run(route, servable, arm), index, request, columns_for(servable, request))
        except Fault as fault:
            refused[index] = fault
    return runs.all


def _is_tried(canary: Canary, left_ns: int) -> bool:
    return not canary.attempts.give_up and challenger_time(left_ns, canary.control.slow_ns) > 0


def challenger_time(left_ns: int, slow_ns: int) -> int:
    """How long a challenger may run where so much time is left and the control may need `slow_ns`; 0 for not at all.

    It is at least as long as the control may need: less would prove nothing against the challenger.
    """
    most_ns = left_ns - slow_ns - MARGIN_NS
    return min(max(left_ns // SHARE, 2 * slow_ns), most_ns) if most_ns >= max(slow_ns, 1) else 0


def choose(snapshot: Snapshot, model: str, version: str) -> tuple[Route, Servable, Arm]:
    """Who answers for a model in a version (a number, a label, or "" for whichever the route names), and as which arm.

    Raises Fault where nobody does.
    """
    route = snapshot.routes.get(model)
    if route is None:
        raise _nobody(snapshot, model)
    if not version:
        return route, route.servable, Arm.CHAMPION
    if version == CHAMPION:
        return route, route.servable, Arm.PINNED
    canary = route.canary
    if canary is not None and version == CANARY:
        return route, canary.challenger, Arm.PINNED
    for servable in served_by(route):
        if version == str(servable.served.version):
            return route, servable, Arm.PINNED
    raise _not_served(model, version, route)


def served_by(route: Route) -> tuple[Servable, ...]:
    """Every version that answers somebody by a route, the champion first."""
    canary = route.canary
    both = () if canary is None else (canary.control, canary.challenger)
    return (route.servable, *(one for one in both if one is not route.servable))


def columns_for(servable: Servable, request: Request, also: Servable | None = None) -> Columns:
    """A request's columns as a version takes them; request-time inputs that only `also` takes are left aside.

    Raises Fault where the request is none that the version describes.
    """
    if request.outputs is None:
        if also is not None and also.requested != servable.requested:
            own = {item.request for item in servable.requested}
            foreign = {item.request for item in also.requested} - own
            request = request._replace(inputs={n: v for n, v in request.inputs.items() if n not in foreign})
        return conform(servable.document, request)
    if absent := set(request.outputs) - {item.name for item in servable.outputs}:
        names = listed([item.name for item in servable.outputs], "none")
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"unexpected inference output {min(absent)[:100]!r} for model {request.model!r}; it has {names}",
        )
    return conform_tensors(servable.document, servable.inputs, request.model, request.tensors)


def count_attempts(runs: Sequence[Run], again: Sequence[Run]) -> None:
    """Tells each challenger's guard how its runs went, by which it may be given up."""
    answered = {id(run.canary) for run in again if len(run.errors) < run.n}
    for run in runs:
        if run.canary is None or run.arm is not Arm.CHALLENGER:
            continue
        broken = [fault.reason for fault in run.errors.values() if fault.reason in BROKEN]
        # Where every row follows there was no time to try, and where none broke the others were refused.
        if len(run.follows) == run.n or (len(run.errors) == run.n and not broken):
            continue
        failed = len(run.errors) == run.n and bool(run.repeated) and id(run.canary) in answered
        run.canary.attempts.count(failed, broken[0] if failed else "")


def stand_ins(challenged: Sequence[Run]) -> list[Run]:
    """Runs of the control for the rows on which a challenger failed, which are marked as repeated."""
    runs = Runs()
    for run in challenged:
        canary = run.canary
        if canary is None or run.arm is not Arm.CHALLENGER or not run.errors:
            continue
        wanted = {row for row, fault in run.errors.items() if run.role is Role.DECLINED or fault.reason not in CALLERS}
        for part in run.parts:
            rows = [row for row in range(part.start, part.stop) if row in wanted]
            if not rows:
                continue
            if part.request.outputs is not None:  # one answer has one version
                rows = list(range(part.start, part.stop))
            run.repeated.update(rows)
            own = part.rows if part.rows is not None else range(part.stop - part.start)
            picked = [own[row - part.start] for row in rows]
            columns = columns_for(canary.control, part.request, canary.challenger)
            again = Run(run.route, canary.control, Arm.CHALLENGER, canary=canary, role=Role.STANDS_IN)
            runs.add(again, part.call, part.request, columns.take(picked), picked)
    return runs.all


def _assign_rows(runs: Runs, route: Route, canary: Canary, index: int, request: Request) -> None:
    """Assigns each row of a call by its entity, or by a draw; a call whose answer has one version by its first row."""
    columns = columns_for(canary.control, request, canary.challenger)
    drawn = _draw(canary, columns, 1 if request.outputs is not None else columns.n)
    if not any(drawn):
        run = runs.add(Run(route, canary.control, Arm.CHAMPION, canary=canary), index, request, columns)
        _mark_followers(run, request)
        return
    if all(drawn):
        _challenge(runs, Run(route, canary.challenger, Arm.CHALLENGER, canary=canary), index, request, columns, None)
        return
    control = [row for row, challenger in enumerate(drawn) if not challenger]
    runs.add(Run(route, canary.control, Arm.CHAMPION, canary=canary), index, request, columns.take(control), control)
    rows = [row for row, challenger in enumerate(drawn) if challenger]
    _challenge(runs, Run(route, canary.challenger, Arm.CHALLENGER, canary=canary), index, request, columns, rows)


def _challenge(
    runs: Runs, fresh: Run, index: int, request: Request, columns: Columns, rows: Sequence[int] | None
) -> None:
    """Gives rows of a call to the challenger; a call that only the control takes counts as the challenger's failure."""
    canary = fresh.canary
    assert canary is not None
    try:
        columns = columns_for(canary.challenger, request, canary.control)
    except Fault as fault:
        fresh.role = Role.DECLINED
        run = runs.add(fresh, index, request, columns if rows is None else columns.take(rows), rows)
        part = run.parts[-1]
        run.errors.update(dict.fromkeys(range(part.start, part.stop), fault))
    else:
        run = runs.add(fresh, index, request, columns if rows is None else columns.take(rows), rows)
    _mark_followers(run, request)


def _mark_followers(run: Run, request: Request) -> None:
    if request.outputs is not None:
        part = run.parts[-1]
        run.follows.update(range(part.start + 1, part.stop))


def _draw(canary: Canary, columns: Columns, n: int) -> list[bool]:
    """Whether each of the first n rows goes to the challenger."""
    entity = canary.control.assign_by
    if canary.per_request or entity is None or columns.tensors is not None:
        return [random.randrange(WHOLE_BPS) < canary.weight_bps for _ in range(n)]  # noqa: S311 - no secret
    salt, weight_bps = canary.salt, canary.weight_bps
    return [is_challenger(salt, key.encode(), weight_bps) for key in columns.entities[entity][:n]]


def _not_served(model: str, version: str, route: Route) -> Fault:
    if not version.isdecimal() and version != CANARY:
        return Fault(
            Reason.VERSION_INVALID,
            f"version {version[:100]!r} is neither a number nor one of the labels {CHAMPION!r} and {CANARY!r}",
        )
    return Fault(
        Reason.VERSION_NOT_SERVED,
        f"version {version[:100]} of model {model} is not served here, version {route.servable.served.version} is; "
        "name no version to get whichever the route names",
    )


def _nobody(snapshot: Snapshot, model: str) -> Fault:
    if not snapshot.known or model in snapshot.loading:
        return Fault(Reason.NOT_READY, "the gateway has not loaded this model yet; repeat the call")
    if not model:
        return Fault(Reason.MODEL_UNKNOWN, "the call names no model; set `model`")
    return Fault(Reason.MODEL_UNKNOWN, f"no model {model[:100]!r} is served here; `interlock status` says which are")
