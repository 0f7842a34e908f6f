"""Reads of the online store: all views of a batch in one snapshot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import lmdb
import numpy as np

from gateway.contract.row import RowCodec
from gateway.contract.schema import Dtype, FeatureView, view_from_json
from gateway.contract.tensors import Array

VIEW_KEY_BYTES: Final = 8
ROWS: Final = b"rows"
"""Sub-database: entity key (UTF-8) followed by the view key → the row, as RowCodec encodes it."""
META: Final = b"meta"
"""Sub-database of everything else; its keys are below."""
HISTORY: Final = b"history"
SEQUENCE: Final = b"sequence"
VIEW: Final = b"view/"
"""Followed by the view key → the view's definition, JSON."""
DICTIONARY: Final = b"dictionary/"
"""Followed by the view key, the feature's name, / and the number of the first code (8 digits) → strings, JSON."""


def view_key(view_hash: str) -> bytes:
    """What marks a view's rows: the first 8 bytes of its hash. Of fixed length at the end, so keys are unambiguous."""
    return bytes.fromhex(view_hash)[:VIEW_KEY_BYTES]


class FoundRow(NamedTuple):
    """What a view holds for an entity."""

    view: FeatureView
    event_ns: int
    created_ns: int
    values: dict[str, Any]
    """By feature; None is null."""


class OnlineStore:
    """The store as one thread reads it. Opened when first needed: a store that is not there yet is empty.

    `with store as snapshot:` holds one read transaction. Open it after spawning, never before, once per process.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._env: Any = None
        self._txn: Any = None
        self._texts: dict[tuple[bytes, str], Array] = {}

    def __enter__(self) -> Self:
        if self._env is None:
            self._open()
        if self._env is not None:
            self._txn = self._env.begin()  # the environment keeps one spare: no new slot, only a new snapshot
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._txn is not None:
            self._txn.abort()
            self._txn = None

    def sequence(self) -> int:
        """The last feature batch applied; 0 before the first."""
        return 0 if self._txn is None else int(self._txn.get(SEQUENCE, b"0", self._meta))

    def rows(self, view: bytes, keys: Sequence[bytes], blank: bytes) -> list[bytes]:
        """The row of each entity key, `blank` where there is none."""
        if self._txn is None:
            return [blank] * len(keys)
        get, db = self._txn.get, self._rows
        return [get(key + view, blank, db) for key in keys]

    def texts(self, view: bytes, feature: str) -> Array:
        """The strings of a feature by code, an object array with at least one element.

        Kept from the first reading on: codes are only ever added, so a code beyond its end says `forget_texts`.
        """
        found = self._texts.get((view, feature))
        if found is None:
            words = self._dictionary(view, feature) or [""]
            found = self._texts[view, feature] = np.array(words, object)
        return found

    def forget_texts(self) -> None:
        """Has every dictionary read again when it is next wanted."""
        self._texts.clear()

    def entity_rows(self, entity: str, key: str) -> Iterator[FoundRow]:
        """The rows of all views of the entity, for people."""
        if self._txn is None:
            return
        cursor = self._txn.cursor(self._meta)
        cursor.set_range(VIEW)
        views = [(name[len(VIEW) :], bytes(text)) for name, text in cursor if name.startswith(VIEW)]
        for view, text in views:
            definition = view_from_json(text.decode())
            raw = self._txn.get(key.encode() + view, None, self._rows) if definition.entity == entity else None
            if raw is not None:
                yield self._found(view, RowCodec(definition), raw)

    def _open(self) -> None:
        if not (self.directory / "data.mdb").exists():
            return
        try:
            # A map of size 0 is as large as the writer made the store; any other would be outgrown.
            env = lmdb.open(
                str(self.directory), map_size=0, readonly=True, max_dbs=2, max_readers=512, max_spare_txns=1
            )
        except lmdb.Error:  # the writer is just creating it
            return
        try:
            self._rows, self._meta = env.open_db(ROWS, create=False), env.open_db(META, create=False)
        except (lmdb.NotFoundError, lmdb.ReadonlyError):
            env.close()  # a second open of one store in a process is an error
            return
        self._env = env

    def _dictionary(self, view: bytes, feature: str) -> list[str]:
        if self._txn is None:
            return []
        prefix = DICTIONARY + view + feature.encode() + b"/"
        cursor = self._txn.cursor(self._meta)
        words: list[str] = []
        if cursor.set_range(prefix):
            for name, text in cursor:
                if not name.startswith(prefix):
                    break
                words += json.loads(text)
        return words

    def _found(self, view: bytes, codec: RowCodec, raw: bytes) -> FoundRow:
        row = codec.decode([raw]).rows[0]
        values: dict[str, Any] = {}
        for feature in codec.view.features:
            block, column, bit = codec.places[feature.name]
            if int(row["nulls"][bit // 64]) >> (bit % 64) & 1:
                values[feature.name] = None
            elif feature.type is Dtype.STRING:
                values[feature.name] = self.texts(view, feature.name)[row[block][column]]
            else:
                values[feature.name] = COLUMN_TYPES[feature.type](row[block][column])
        return FoundRow(codec.view, int(row["event_ns"]), int(row["created_ns"]), values)


COLUMN_TYPES: Final[dict[Dtype, type]] = {Dtype.FLOAT32: float, Dtype.INT64: int, Dtype.BOOL: bool}
