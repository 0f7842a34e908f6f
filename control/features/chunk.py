"""What a chunk of feature rows must be before it enters the log. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Dtype, Feature, FeatureView

MAX_ROWS: Final = 10_000
MAX_KEY_BYTES: Final = 256
MAX_TEXT_BYTES: Final = 1024
DAY_NS: Final = 86_400_000_000_000
SHORT_UNITS_NS: Final = (10**9, 10**17)
"""Times in this range are seconds, milliseconds or microseconds of our era, taken for nanoseconds by mistake."""

LISTS: Final = {
    Dtype.FLOAT32: "numbers",
    Dtype.INT64: "integers",
    Dtype.STRING: "texts",
    Dtype.BOOL: "flags",
}
"""Which list of a column holds the values of each type."""


class Column(NamedTuple):
    """Values of one feature as they were sent: the lists that are not empty, by name, and the rows that are null."""

    name: str
    lists: Mapping[str, Sequence[Any]]
    nulls: Sequence[int]


class Chunk(NamedTuple):
    """Rows of a view that may enter the log."""

    keys: list[str]
    event_ns: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray[Any]]
    """By feature, for all but strings."""
    texts: dict[str, list[str]]
    """By feature, for strings; anything where null."""
    nulls: dict[str, npt.NDArray[np.bool_]]
    """By feature, where any row is null."""


def check_chunk(
    view: FeatureView, keys: Sequence[str], event_times_ns: Sequence[int], columns: Sequence[Column], now_ns: int
) -> Chunk:
    """Returns the rows, or raises a fault that names the column and row that is wrong."""
    n = len(keys)
    if not 1 <= n <= MAX_ROWS:
        raise _invalid("keys", f"a chunk has 1 to {MAX_ROWS} rows, this one has {n}")
    _check_keys(keys)
    event_ns = _event_times(event_times_ns, n, now_ns)
    by_name = _by_name(view, columns)
    chunk = Chunk(list(keys), event_ns, {}, {}, {})
    for feature in view.features:
        column = by_name[feature.name]
        null = _nulls(column, n)
        if null.any():
            chunk.nulls[feature.name] = null
        values = _values(feature, column, n)
        if feature.type is Dtype.STRING:
            chunk.texts[feature.name] = _checked_texts(feature.name, list(values), null)
        else:
            chunk.values[feature.name] = _checked_numbers(feature, values, null)
    return chunk


def _check_keys(keys: Sequence[str]) -> None:
    # One look at the shortest and the longest spares a loop over the common case.
    if min(map(len, keys)) >= 1 and max(map(len, keys)) * 4 <= MAX_KEY_BYTES:
        return
    for row, key in enumerate(keys):
        if not 1 <= len(key.encode()) <= MAX_KEY_BYTES:
            raise _invalid("keys", f"row {row}: a key has 1 to {MAX_KEY_BYTES} bytes, this one {len(key.encode())}")


def _event_times(times: Sequence[int], n: int, now_ns: int) -> npt.NDArray[np.int64]:
    if len(times) != n:
        raise _invalid("event_times_ns", f"{len(times)} event times for {n} keys; send one per row")
    event_ns = np.fromiter(times, np.int64, n)
    low, high = SHORT_UNITS_NS
    for bad, why in (
        (event_ns < 0, "lies before 1970"),
        ((event_ns >= low) & (event_ns < high), "is in seconds, milliseconds or microseconds; send nanoseconds"),
        # A row from the future would never grow stale and would hide every newer one.
        (event_ns > now_ns + DAY_NS, "lies more than a day in the future"),
    ):
        if bad.any():
            row = int(bad.argmax())
            raise _invalid("event_times_ns", f"row {row}: {int(event_ns[row])} {why}")
    return event_ns


def _by_name(view: FeatureView, columns: Sequence[Column]) -> dict[str, Column]:
    found: dict[str, Column] = {}
    wanted = {feature.name for feature in view.features}
    for column in columns:
        if column.name in found:
            raise _invalid(column.name, "the column is there twice")
        if column.name not in wanted:
            raise _invalid(column.name, f"view {view.name} has no such feature; it has {', '.join(sorted(wanted))}")
        found[column.name] = column
    if absent := sorted(wanted - found.keys()):
        raise _invalid(absent[0], f"no column for {', '.join(absent)}; where nothing is known, send nulls")
    return found


def _nulls(column: Column, n: int) -> npt.NDArray[np.bool_]:
    null = np.zeros(n, bool)
    if column.nulls:
        rows = np.asarray(column.nulls, np.int64)
        if rows.max() >= n:
            raise _invalid(column.name, f"nulls names row {int(rows.max())}, but the last is {n - 1}")
        null[rows] = True
    return null


def _values(feature: Feature, column: Column, n: int) -> Sequence[Any]:
    wanted = LISTS[feature.type]
    if other := sorted(set(column.lists) - {wanted}):
        raise _invalid(feature.name, f"is {feature.type}: fill `{wanted}`, not `{other[0]}`")
    values = column.lists.get(wanted, ())
    if len(values) != n:
        raise _invalid(feature.name, f"{len(values)} values in `{wanted}` for {n} keys; send one per row")
    return values


NUMPY: Final = {Dtype.FLOAT32: np.float32, Dtype.INT64: np.int64, Dtype.BOOL: np.bool_}


def _checked_numbers(feature: Feature, values: Sequence[Any], null: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.fromiter(values, NUMPY[feature.type], len(values))
    if feature.type is Dtype.FLOAT32:
        bad = ~np.isfinite(found) & ~null
        if bad.any():
            row = int(bad.argmax())
            raise _invalid(feature.name, f"row {row} is {found[row]}; a value that is not known is sent as null")
    return found


def _checked_texts(name: str, texts: list[str], null: npt.NDArray[np.bool_]) -> list[str]:
    if max(map(len, texts)) * 4 > MAX_TEXT_BYTES:
        for row, text in enumerate(texts):
            if not null[row] and len(text.encode()) > MAX_TEXT_BYTES:
                raise _invalid(name, f"row {row} has {len(text.encode())} bytes of text; {MAX_TEXT_BYTES} are taken")
    return texts


def _invalid(field: str, message: str) -> Fault:
    return Fault(Reason.ARGUMENT_INVALID, f"{field}: {message}", field=field)
