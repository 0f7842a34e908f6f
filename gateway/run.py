"""Runs: rows of one or several calls that one version answers together, as they move along the request path."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.conform import Columns, encode_keys, refuse_not_finite, refuse_too_large
from gateway.contract.errors import Fault, Reason
from gateway.contract.missing import Settled
from gateway.contract.row import BLANK, Decoded, Rows
from gateway.contract.tensors import Array, Results, assemble
from gateway.features.store import OnlineStore
from gateway.request import Arm, Request
from gateway.servable import Servable, StoredView

NEVER_NS: Final = int(np.iinfo(np.int64).max)
"""Stands for the event time of a row that is not there."""
TENSOR: Final = b"\xff" * 8
"""Labels a part of the payload that is a graph input which the caller sent."""
DAMAGED: Final = Fault(
    Reason.FEATURE_DAMAGED, "the stored feature row of this entity is damaged and was not used; tell the operator"
)


class Canary(NamedTuple):
    """A challenger that answers a share of a model's traffic, and the control that it is compared with."""

    rollout_id: int
    step: int
    challenger: Servable
    control: Servable
    weight_bps: int
    salt: bytes
    per_request: bool
    attempts: Attempts


class Attempts:
    """How the challenger's latest runs went on this worker. `give_up` is the first guard, and needs no statistics."""

    MOST_FAILED: Final = 3
    """Runs in a row that failed although the control could answer."""

    def __init__(self) -> None:
        self.failed = 0
        self.give_up = ""
        """Why the challenger is tried no more; empty while it is."""

    def count(self, failed: bool, why: str) -> None:
        """Takes one more run."""
        self.failed = self.failed + 1 if failed else 0
        if self.failed >= self.MOST_FAILED and not self.give_up:
            self.give_up = f"{self.MOST_FAILED} runs in a row failed that the control could answer; the last: {why}"


class Route(NamedTuple):
    """Who answers for a model, and since which table."""

    servable: Servable
    """The champion."""
    revision: int
    marks: int = 0
    """What every reply says of it: bits of Mark. Not of the servable, which stays the same when a mark goes."""
    canary: Canary | None = None
    mirrored: tuple[StoredView, ...] = ()
    """Views of shadows and of what these are compared with: read and journalled beside the others, in one snapshot."""


class Part(NamedTuple):
    """One call's rows in a run."""

    call: int
    """The call's place in its batch."""
    request: Request
    columns: Columns
    start: int
    stop: int
    rows: Sequence[int] | None = None
    """Which of the call's rows they are; None for all of them."""


class Inferred(NamedTuple):
    """What a run's model said."""

    results: Results
    outputs: Mapping[str, Array]
    """The graph's outputs that the run wants besides the score."""


class Found(NamedTuple):
    """What the online store and the request held for the rows of a run."""

    keys: dict[str, list[bytes]]
    """By entity, one per row."""
    sequence: int
    """The last feature batch that the snapshot had applied."""
    payload: list[bytes]
    """Per view: the rows as stored, one after the other; then the values of each request-time input."""
    labels: list[bytes]
    """Per view of the payload: its key in the online store. Or TENSOR for each part."""
    oldest_ns: list[int] | None
    """Per row: event time of the oldest row used, NEVER_NS for none; None without stored features."""
    unknown: npt.NDArray[np.bool_] | None
    """Shape (n,): whether one of the entities has no row in any of its views; None where all have one."""
    settled: list[Settled]
    """What became of missing and stale values, for the views that had any."""


class Role(Enum):
    """What a run is to the assignment of its rows."""

    ASSIGNED = "assigned"
    """It runs the version that the rows were assigned to."""
    DECLINED = "declined"
    """So it would, but that version takes no calls like these: nothing is read or run."""
    STANDS_IN = "stands in"
    """It runs the control, on rows on which the challenger failed."""


@dataclass(slots=True)
class Run:
    """At most 256 rows for one servable, under one arm."""

    route: Route
    servable: Servable
    arm: Arm
    parts: list[Part] = field(default_factory=list)
    n: int = 0
    errors: dict[int, Fault] = field(default_factory=dict)
    """By row: why it has no score."""
    canary: Canary | None = None
    """By which the rows were assigned, to either arm; None where nothing was drawn."""
    role: Role = Role.ASSIGNED
    repeated: set[int] = field(default_factory=set)
    """Rows of a challenger's run that the control was asked for afterwards."""
    follows: set[int] = field(default_factory=set)
    """Rows that shared another row's fate, and are no evidence of their own."""
    slow: bool = False
    """Whether it took longer than a challenger in its place would have been given."""

    @property
    def outputs(self) -> tuple[str, ...] | None:
        """The graph's outputs that the calls want, none for all; None for scores."""
        return self.parts[0].request.outputs

    def keys(self) -> dict[str, list[bytes]]:
        """The entity keys of all rows; keys that cannot be one get an error."""
        found: dict[str, list[bytes]] = {entity: [] for entity in self.servable.document.entities}
        for part in self.parts:
            for entity, column in found.items():
                column.extend(encode_keys(part.columns.entities[entity], part.start, self.errors))
        return found

    def requested(self) -> Mapping[str, Array]:
        """The request-time columns of all rows."""
        return _side_by_side([part.columns.requested for part in self.parts])


def gather(run: Run, store: OnlineStore, now_ns: int) -> tuple[dict[str, Array], Found]:
    """Reads the run's stored features from the store's snapshot and fills the graph's inputs with them.

    `now_ns` is UTC: what staleness is measured by.
    """
    if run.role is Role.DECLINED:  # whose rows they are counts all the same: an entity is one unit
        keys = {} if run.parts[0].columns.tensors is not None else run.keys()
        return {}, Found(keys, store.sequence(), [], [], None, None, [])
    if run.parts[0].columns.tensors is not None:
        tensors = _side_by_side([part.columns.tensors or {} for part in run.parts])
        payload = [_column_bytes(values) for values in tensors.values()]
        return dict(tensors), Found({}, store.sequence(), payload, [TENSOR] * len(payload), None, None, [])
    views, keys, requested = run.servable.views, run.keys(), run.requested()
    refuse_not_finite(run.servable.document, requested, run.errors)
    rows: dict[str, Rows] = {}
    payload, labels = [], []
    settled: list[Settled] = []
    absent: dict[str, Any] = {}
    oldest_ns: list[int] | None = None
    for view in views:
        raw = store.rows(view.key, keys[view.entity], view.codec.blank)
        payload.append(b"".join(raw))
        labels.append(view.key)
        decoded, found = read_view(view, raw, now_ns, run.errors)
        rows[view.name] = decoded.rows
        if found is not None:
            settled.append(found)
        times_ns, blank = _presence(decoded)
        absent[view.entity] = absent.get(view.entity, True) & blank
        oldest_ns = times_ns if oldest_ns is None else list(map(min, oldest_ns, times_ns))
    for view in run.route.mirrored:
        if view.key not in labels and view.entity in keys:  # a shadow may want keys that no caller of this one gives
            payload.append(b"".join(store.rows(view.key, keys[view.entity], view.codec.blank)))
            labels.append(view.key)
    inputs = fill(run.servable, run.n, (rows, requested), store, run.errors)
    payload += [_column_bytes(column) for column in requested.values()]
    return inputs, Found(keys, store.sequence(), payload, labels, oldest_ns, _any_row(absent.values()), settled)


def read_view(
    view: StoredView, raw: list[bytes], now_ns: int, errors: dict[int, Fault]
) -> tuple[Decoded, Settled | None]:
    """A view's rows as stored, with what is missing or stale settled by the version's policy, and what that was.

    The mirror reads journalled rows by this too, so that it sees what the request path saw.
    """
    decoded = _decode(view, raw, errors)
    settled = view.policy.settle(decoded, now_ns)
    if settled is not None:
        _reject(view, settled, errors)
    return decoded, settled


def fill(
    servable: Servable,
    n: int,
    columns: tuple[Mapping[str, Rows], Mapping[str, Array]],
    store: OnlineStore,
    errors: dict[int, Fault],
) -> dict[str, Array]:
    """The graph's inputs for n rows: from settled rows by view name, and request-time columns by name."""
    rows, requested = columns
    if servable.narrow:
        refuse_too_large(servable.narrow, rows, requested, errors)
    try:
        return assemble(servable.feeds, n, rows, _texts(servable.views, store), requested)
    except IndexError:  # a dictionary has grown since it was read; codes are only ever added
        store.forget_texts()
        return assemble(servable.feeds, n, rows, _texts(servable.views, store), requested)


def _side_by_side(columns: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """The columns of several calls as those of one."""
    if len(columns) == 1:
        return columns[0]
    return {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}


def _decode(view: StoredView, raw: list[bytes], errors: dict[int, Fault]) -> Decoded:
    try:
        return view.codec.decode(raw)
    except ValueError:
        damaged = view.codec.damaged(raw)
        errors.update((row, DAMAGED) for row in damaged)
        return view.codec.decode([view.codec.blank if row in damaged else value for row, value in enumerate(raw)])


def _reject(view: StoredView, settled: Settled, errors: dict[int, Fault]) -> None:
    for row, (reason, feature) in settled.rejected.items():
        how = "is missing" if reason is Reason.FEATURE_MISSING else "is older than its time-to-live"
        message = f"feature {view.name}.{feature} {how} for this entity, and its policy is `missing: reject`"
        errors.setdefault(row, Fault(reason, message, view=view.name, feature=feature))


def _presence(decoded: Decoded) -> tuple[list[int], Any]:
    """The rows' event times, NEVER_NS where nothing is stored, and where that is: False or a boolean array."""
    if decoded.plain:
        return decoded.event_ns, False
    blank = decoded.rows["format"] == BLANK
    return np.where(blank, NEVER_NS, decoded.rows["event_ns"]).tolist(), blank


def _any_row(absent: Iterable[Any]) -> npt.NDArray[np.bool_] | None:
    """Which rows lack one of their entities; None where none does."""
    lacking = [gone for gone in absent if gone is not False and np.count_nonzero(gone)]
    return np.logical_or.reduce(lacking) if lacking else None


def _texts(views: Sequence[StoredView], store: OnlineStore) -> dict[tuple[str, str], Array]:
    return {(view.name, feature): store.texts(view.key, feature) for view in views for feature in view.texts}


def _column_bytes(column: Array) -> bytes:
    """A request-time column as the journal keeps it: strings as JSON, numbers as they lie in memory."""
    return json.dumps(column.tolist()).encode() if column.dtype == np.object_ else column.tobytes()
