"""The feature log: batches of rows, numbered without gaps, each durable with its number and its new strings."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, insert, select

from control.features.chunk import Chunk
from control.store.store import Store, Unit
from control.store.tables import dictionaries, feature_batches, feature_views
from gateway.contract.errors import Fault, Reason
from gateway.contract.row import RowCodec
from gateway.contract.schema import FeatureView

MAX_STRINGS: Final = 1_000_000
"""Strings that one feature's dictionary holds: every worker of every gateway keeps them in memory."""


class Addition(NamedTuple):
    """Strings that a feature's dictionary gained, in the order of their codes."""

    feature: str
    first_code: int
    values: list[str]


class Batch(NamedTuple):
    """One batch of the log, encoded as online stores keep it."""

    sequence: int
    view_hash: str
    definition_json: str
    additions: list[Addition]
    keys: list[str]
    rows: bytes


class FeatureLog:
    """Appends to the log and reads it. One per process, so that readers hear of what is appended."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # By view hash and feature. Only what was committed is kept here: codes never change, so it never goes stale.
        self._codes: dict[tuple[str, str], dict[str, int]] = {}
        self._grown = threading.Condition()
        with store.read() as connection:
            self._newest = newest_sequence(connection)

    def append(self, unit: Unit, view: FeatureView, chunk: Chunk) -> int:
        """Appends a batch within the unit and returns its number; `announce` it once the unit is committed.

        At most once in a unit: what it learns of the dictionaries at its start must have been committed.
        """
        digest = view.digest()
        additions: list[Addition] = []
        columns: dict[str, npt.NDArray[Any]] = dict(chunk.values)
        for feature, texts in chunk.texts.items():
            there = ~chunk.nulls[feature] if feature in chunk.nulls else np.ones(len(texts), bool)
            present = texts if there.all() else [texts[row] for row in np.flatnonzero(there)]
            codes, addition = self._encode(unit.connection, digest, feature, present)
            columns[feature] = np.zeros(len(texts), np.uint32)
            columns[feature][there] = codes
            additions += [addition] if addition.values else []
        rows = RowCodec(view).encode(
            chunk.event_ns, np.full(len(chunk.keys), unit.now_ns, np.int64), columns, chunk.nulls
        )
        sequence = newest_sequence(unit.connection) + 1
        _insert_strings(unit.connection, digest, additions)
        unit.connection.execute(
            insert(feature_batches).values(
                sequence=sequence,
                view_hash=digest,
                row_count=len(chunk.keys),
                additions_json=json.dumps([item._asdict() for item in additions], ensure_ascii=False),
                keys_json=json.dumps(chunk.keys, ensure_ascii=False),
                rows=rows,
                appended_at_ns=unit.now_ns,
            )
        )
        return sequence

    def announce(self, sequence: int) -> None:
        """Wakes those who wait for batches; call it after the unit of `append` was committed."""
        with self._grown:
            self._newest = max(self._newest, sequence)
            self._grown.notify_all()

    def wait(self, after: int, timeout_s: float) -> bool:
        """Whether the log has a batch after that number, waiting for one up to `timeout_s`."""
        with self._grown:
            return self._grown.wait_for(lambda: self._newest > after, timeout_s)

    def read(self, from_sequence: int) -> Iterator[Batch]:
        """The batches from that number on, up to the newest; one at a time is in memory."""
        sequence = max(from_sequence, 1)
        while (batch := self._batch(sequence)) is not None:
            yield batch
            sequence += 1

    @property
    def newest(self) -> int:
        """The number of the newest batch; 0 where there is none."""
        return self._newest

    def _batch(self, sequence: int) -> Batch | None:
        columns = feature_batches.c
        query = (
            select(columns.view_hash, feature_views.c.definition_json, columns.additions_json, columns.keys_json)
            .add_columns(columns.rows)
            .join(feature_views, feature_views.c.hash == columns.view_hash)
            .where(columns.sequence == sequence)
        )
        with self._store.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        additions = [Addition(**item) for item in json.loads(row.additions_json)]
        return Batch(
            sequence, row.view_hash, row.definition_json, additions, json.loads(row.keys_json), bytes(row.rows)
        )

    def _encode(
        self, connection: Connection, view_hash: str, feature: str, texts: list[str]
    ) -> tuple[npt.NDArray[np.uint32], Addition]:
        """The codes of the strings, and those that are new, in the order in which they came."""
        known = self._codes.setdefault((view_hash, feature), {})
        _catch_up(connection, view_hash, feature, known)
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if len(known) + len(fresh) > MAX_STRINGS:
            raise Fault(
                Reason.ARGUMENT_INVALID,
                f"{feature}: has more than {MAX_STRINGS} different strings; a string feature is for categories",
                field=feature,
            )
        first = len(known)
        added = {text: first + offset for offset, text in enumerate(fresh)}
        codes = {**known, **added} if added else known
        return np.fromiter((codes[text] for text in texts), np.uint32, len(texts)), Addition(feature, first, fresh)


def newest_sequence(connection: Connection) -> int:
    """The number of the newest batch; 0 where there is none."""
    return connection.execute(select(func.max(feature_batches.c.sequence))).scalar_one() or 0


def _catch_up(connection: Connection, view_hash: str, feature: str, known: dict[str, int]) -> None:
    """Adds the strings that were committed since; codes count from 0, so those known are the first ones."""
    columns = dictionaries.c
    query = select(columns.value, columns.code).where(
        columns.view_hash == view_hash, columns.feature == feature, columns.code >= len(known)
    )
    known.update((row.value, row.code) for row in connection.execute(query))


def _insert_strings(connection: Connection, view_hash: str, additions: list[Addition]) -> None:
    rows = [
        {"view_hash": view_hash, "feature": item.feature, "code": item.first_code + offset, "value": value}
        for item in additions
        for offset, value in enumerate(item.values)
    ]
    if rows:
        connection.execute(insert(dictionaries), rows)
