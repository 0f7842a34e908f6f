"""What becomes of stored values that are missing or stale: the declared default, or a row that fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.errors import Reason
from gateway.contract.row import BLANK, Decoded, RowCodec, Rows
from gateway.contract.schema import Dtype, Feature, Missing

NS: Final = 1_000_000_000


class Used(NamedTuple):
    """A feature that a model takes from a view."""

    feature: Feature
    block: str
    column: int
    bit: int
    ttl_ns: int | None


class Settled(NamedTuple):
    """What was done to n rows of a view."""

    defaulted: npt.NDArray[np.int64]
    """Shape (n,): how many of the model's features took their default."""
    stale: npt.NDArray[np.bool_]
    """Shape (n,): whether any of them did so for its age."""
    rejected: dict[int, tuple[Reason, str]]
    """Rows that must fail, with the reason and the feature's name."""


class MissingPolicy:
    """What one model says of one view's missing values."""

    def __init__(self, codec: RowCodec, names: Iterable[str]) -> None:
        view = codec.view
        self.used = tuple(_used(codec, view.feature(name)) for name in names)
        self.mask = np.zeros(codec.words, np.uint64)
        for item in self.used:
            self.mask[item.bit // 64] |= np.uint64(1) << np.uint64(item.bit % 64)
        self.shortest_ttl_ns = min((item.ttl_ns for item in self.used if item.ttl_ns is not None), default=None)

    def settle(self, decoded: Decoded, now_ns: int) -> Settled | None:
        """Marks stale values as null and writes numeric defaults over nulls, in place.

        Returns None where every value was there and fresh, which is the common case. Strings keep their null mark:
        their default is put in when codes become text.
        """
        ttl_ns, rows = self.shortest_ttl_ns, decoded.rows
        fresh = ttl_ns is None or min(decoded.event_ns) >= now_ns - ttl_ns
        if fresh and (decoded.plain or not np.count_nonzero(rows["nulls"] & self.mask)):
            return None
        settled = Settled(np.zeros(len(rows), np.int64), np.zeros(len(rows), bool), {})
        for item in self.used:
            _settle_feature(rows, item, now_ns, settled)
        return settled


def is_null(rows: Rows, bit: int) -> npt.NDArray[np.bool_]:
    """Shape (n,): which rows have no value for the feature of that bit."""
    return (rows["nulls"][:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1) != 0  # type: ignore[no-any-return]


def _used(codec: RowCodec, feature: Feature) -> Used:
    ttl_s = feature.ttl_s or codec.view.ttl_s
    return Used(feature, *codec.places[feature.name], None if ttl_s is None else ttl_s * NS)


def _settle_feature(rows: Rows, item: Used, now_ns: int, settled: Settled) -> None:
    gone = is_null(rows, item.bit)
    if item.ttl_ns is not None:
        old = (rows["format"] != BLANK) & (rows["event_ns"] < now_ns - item.ttl_ns) & ~gone
        rows["nulls"][:, item.bit // 64] |= old.astype(np.uint64) << np.uint64(item.bit % 64)
        gone = gone | old
    else:
        old = np.zeros(len(rows), bool)
    if not gone.any():
        return
    if item.feature.missing is Missing.REJECT:
        for index in np.flatnonzero(gone).tolist():
            reason = Reason.FEATURE_STALE if old[index] else Reason.FEATURE_MISSING
            settled.rejected.setdefault(index, (reason, item.feature.name))
        return
    settled.defaulted[gone] += 1
    settled.stale[old] = True
    if item.feature.type is not Dtype.STRING:
        default = item.feature.default
        rows[item.block][gone, item.column] = np.nan if default is None else default
