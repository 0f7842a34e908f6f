"""The only writer of the online store: feature batches in order, each in the transaction that records its number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb

from gateway.contract.errors import Fault, Reason
from gateway.contract.row import RowCodec
from gateway.contract.schema import view_from_json
from gateway.features.store import DICTIONARY, HISTORY, META, ROWS, SEQUENCE, VIEW, VIEW_KEY_BYTES, view_key

KEY_BYTES: Final = 511 - VIEW_KEY_BYTES
"""Bytes of the longest entity key that the store can hold."""

StoreError = lmdb.Error
StoreFull = lmdb.MapFullError
"""What the store raises, by names of ours: only this package knows LMDB."""


class Batch(NamedTuple):
    """One batch of the feature log."""

    sequence: int
    view_hash: str
    definition_json: str
    additions: Mapping[str, tuple[int, Sequence[str]]]
    """By feature: the code of the first new string, and the strings."""
    keys: Sequence[str]
    rows: bytes
    """The rows one after the other, as the view's RowCodec encodes them."""


class OnlineWriter:
    """Opens the store for writing, creating it where it is not there.

    `map_bytes` is fixed when the store is created. Never a writable memory map: on a full disk that is a SIGBUS,
    whereas a commit that fails leaves the old data readable.
    """

    def __init__(self, directory: Path, map_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(directory), map_size=map_bytes, max_dbs=2, max_readers=512)
        self._rows, self._meta = self._env.open_db(ROWS), self._env.open_db(META)
        self._codecs: dict[str, tuple[str, RowCodec]] = {}
        self._env.reader_check()  # slots of readers that were killed would keep old pages for ever

    @property
    def sequence(self) -> int:
        """The last batch applied; 0 before the first."""
        with self._env.begin() as txn:
            return int(txn.get(SEQUENCE, b"0", self._meta))

    @property
    def history_id(self) -> str:
        """The history that the store belongs to; empty before the first batch."""
        with self._env.begin() as txn:
            return bytes(txn.get(HISTORY, b"", self._meta)).decode()

    def apply(self, batch: Batch, history_id: str) -> bool:
        """Applies one batch, as `apply_all` does; whether it was new."""
        return bool(self.apply_all((batch,), history_id))

    def apply_all(self, batches: Sequence[Batch], history_id: str) -> int:
        """Applies batches in one transaction, durably, and returns how many were new; those applied before are skipped.

        Raises Fault for batches of another history, and ValueError for one that leaves a gap or is not of the layout
        that its view says. Nothing at all is changed then.
        """
        codecs = [self._codec(batch) for batch in batches]
        count = 0
        with self._env.begin(write=True) as txn:
            self._check_history(txn, history_id)
            applied = int(txn.get(SEQUENCE, b"0", self._meta))
            for batch, codec in zip(batches, codecs, strict=True):
                if batch.sequence <= applied:
                    continue
                if batch.sequence != applied + 1:
                    raise ValueError(f"batch {batch.sequence} came after {applied}: {applied + 1} is missing")
                self._put_definitions(txn, batch)
                self._put_rows(txn, batch, codec)
                applied, count = batch.sequence, count + 1
            txn.put(SEQUENCE, b"%d" % applied, db=self._meta)
        self._env.reader_check()
        return count

    def close(self) -> None:
        """Closes the store."""
        self._env.close()

    def _codec(self, batch: Batch) -> RowCodec:
        """The layout of the batch's rows; raises ValueError for a batch that does not fit it or the store."""
        definition, codec = self._codecs.get(batch.view_hash, ("", None))
        if codec is None or definition != batch.definition_json:
            view = view_from_json(batch.definition_json)
            if view.digest() != batch.view_hash:
                raise ValueError(f"batch {batch.sequence}: the definition is not the one that its hash names")
            codec = RowCodec(view)
            self._codecs[batch.view_hash] = batch.definition_json, codec
        if len(batch.rows) != codec.stride * len(batch.keys):
            raise ValueError(
                f"batch {batch.sequence}: {len(batch.rows)} bytes for {len(batch.keys)} rows of {codec.stride}"
            )
        if any(len(key.encode()) > KEY_BYTES for key in batch.keys):
            raise ValueError(f"batch {batch.sequence}: an entity key has more than {KEY_BYTES} bytes")
        return codec

    def _check_history(self, txn: Any, history_id: str) -> None:
        known = bytes(txn.get(HISTORY, b"", self._meta)).decode()
        if not known:
            txn.put(HISTORY, history_id.encode(), db=self._meta)
        elif known != history_id:
            raise Fault(
                Reason.HISTORY_MISMATCH,
                f"the online store belongs to history {known}, the batch to {history_id}; "
                "if the new one is right, `interlock gateway accept-history` on this host takes it",
            )

    def _put_definitions(self, txn: Any, batch: Batch) -> None:
        view = view_key(batch.view_hash)
        txn.put(VIEW + view, batch.definition_json.encode(), db=self._meta)
        for feature, (first_code, words) in batch.additions.items():
            name = DICTIONARY + view + feature.encode() + b"/" + b"%08d" % first_code
            txn.put(name, json.dumps(list(words)).encode(), db=self._meta)

    def _put_rows(self, txn: Any, batch: Batch, codec: RowCodec) -> None:
        """Puts each row unless the store has a newer one, by event time and then by when it became known."""
        view, stride, raw = view_key(batch.view_hash), codec.stride, memoryview(batch.rows)
        newest: dict[bytes, memoryview] = {}
        for index, key in enumerate(batch.keys):
            name, row = key.encode() + view, raw[index * stride : (index + 1) * stride]
            if name not in newest or _age(newest[name]) <= _age(row):
                newest[name] = row
        names = sorted(newest)  # neighbours share pages: a sorted batch touches each page once
        cursor = txn.cursor(self._rows)
        for name, row in cursor.getmulti(names):
            if _age(row) > _age(newest[name]):
                del newest[name]
        cursor.putmulti([(name, newest[name]) for name in names if name in newest])


def _age(row: Any) -> tuple[int, int]:
    """Event time and created time: where RowCodec puts them."""
    return int.from_bytes(row[8:16], "little", signed=True), int.from_bytes(row[16:24], "little", signed=True)
