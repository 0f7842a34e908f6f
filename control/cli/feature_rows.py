"""From CSV to chunks of feature rows, typed by the view's definition; every error names line and column."""

from __future__ import annotations

import csv
import datetime as dt
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from control.v1 import features_pb2
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Dtype, Feature, FeatureView

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 4 << 20
"""Of a chunk, roughly; the control plane takes messages of four times that unless it is told otherwise."""
EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
FIRST_NS: Final = 10**17
"""A smaller number is no time in nanoseconds after 1973, but most likely one in seconds or milliseconds."""
FLOAT32_MAX: Final = 3.4028235677973366e38
TRUTHS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}
LISTS: Final[Mapping[Dtype, str]] = {
    Dtype.FLOAT32: "numbers",
    Dtype.INT64: "integers",
    Dtype.STRING: "texts",
    Dtype.BOOL: "flags",
}
"""The list of a FeatureColumn that takes each type."""
ABSENT: Final[Mapping[Dtype, Any]] = {Dtype.FLOAT32: 0.0, Dtype.INT64: 0, Dtype.STRING: "", Dtype.BOOL: False}


class Layout(NamedTuple):
    """Which columns of the file are what."""

    key: str
    """Column of the entity keys."""
    time: str | None
    """Column of the event times; None where all rows have the same."""
    at_ns: int = 0
    """The event time of all rows, where no column gives it."""


def feature_chunks(
    lines: Iterable[str], view: FeatureView, layout: Layout, source: str
) -> Iterator[features_pb2.FeatureRows]:
    """Reads CSV lines (header first) into chunks that are taken as one message; raises Fault at the first bad cell."""
    reader = csv.reader(lines, strict=True)
    header = _header(reader, view, layout, source)
    places = {name: index for index, name in enumerate(header)}
    rows: list[tuple[int, list[str]]] = []
    n_bytes = 0
    for cells in _records(reader, source):
        if len(cells) != len(header):
            raise _fault(source, reader.line_num, f"has {len(cells)} cells, the header has {len(header)}")
        rows.append((reader.line_num, cells))
        n_bytes += sum(map(len, cells)) + 8 * len(cells)
        if len(rows) == MAX_ROWS or n_bytes >= MAX_BYTES:
            yield _chunk(rows, places, view, layout, source)
            rows, n_bytes = [], 0
    if rows:
        yield _chunk(rows, places, view, layout, source)


def parse_time(cell: str, zone: dt.tzinfo) -> int:
    """UTC nanoseconds of an ISO 8601 time (in `zone` where it names none) or of a whole number; raises ValueError."""
    if cell.isdecimal():
        if int(cell) < FIRST_NS:
            raise ValueError(f"{cell!r} is too small for UTC nanoseconds; multiply seconds by 1000000000")
        return int(cell)
    try:
        moment = dt.datetime.fromisoformat(cell)
    except ValueError:
        raise ValueError(f"{cell!r} is neither an ISO 8601 time (2026-01-31T12:00:00Z) nor UTC nanoseconds") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (moment - EPOCH) // dt.timedelta(microseconds=1) * 1000


def parse_value(dtype: Dtype, cell: str) -> float | int | str | bool:
    """The value of a cell that is not empty; raises ValueError."""
    match dtype:
        case Dtype.FLOAT32:
            return _float32(cell)
        case Dtype.INT64:
            return _int64(cell)
        case Dtype.BOOL:
            if cell.lower() not in TRUTHS:
                raise ValueError(f"{cell!r} is not a bool: write true or false")
            return TRUTHS[cell.lower()]
        case Dtype.STRING:
            return cell


def _float32(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{cell!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{cell!r} is not finite; leave the cell empty where the value is missing")
    if abs(value) > FLOAT32_MAX:
        raise ValueError(f"{cell!r} is too large for float32")
    return value


def _int64(cell: str) -> int:
    """Whole numbers, written 3 or, as pandas writes columns with gaps, 3.0."""
    whole = cell.removesuffix(".0")
    if not whole.removeprefix("-").removeprefix("+").isdecimal():
        raise ValueError(f"{cell!r} is not a whole number")
    if not -(2**63) <= (value := int(whole)) < 2**63:
        raise ValueError(f"{cell!r} is too large for int64")
    return value


def _header(reader: Any, view: FeatureView, layout: Layout, source: str) -> Sequence[str]:
    header = next(_records(reader, source), None)
    if header is None:
        raise Fault(Reason.ARGUMENT_INVALID, f"{source} is empty: its first line must name the columns")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise _fault(source, 1, f"column {', '.join(twice)} is there twice")
    if layout.key not in header:
        raise _fault(source, 1, f"no column {layout.key} for the entity keys; name it with --key ({_have(header)})")
    if layout.time is not None and layout.time not in header:
        message = f"no column {layout.time} for the event times; name it with --time, or give --at for all rows"
        raise _fault(source, 1, f"{message} ({_have(header)})")
    if absent := [feature.name for feature in view.features if feature.name not in header]:
        raise _fault(source, 1, f"no column {', '.join(absent)}, which the view {view.name} has ({_have(header)})")
    return header


def _have(header: Sequence[str]) -> str:
    return f"the file has {', '.join(header)}"


def _records(reader: Any, source: str) -> Iterator[list[str]]:
    """The records, less blank lines."""
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise _fault(source, reader.line_num, f"is no CSV: {error}") from None


def _chunk(
    rows: Sequence[tuple[int, list[str]]], places: Mapping[str, int], view: FeatureView, layout: Layout, source: str
) -> features_pb2.FeatureRows:
    key, zone = places[layout.key], ZoneInfo(view.timezone)
    chunk = features_pb2.FeatureRows(keys=[cells[key] for _, cells in rows])
    for line, cells in rows:
        if not cells[key]:
            raise _fault(source, line, f"column {layout.key}: the entity key is empty")
        if layout.time is None:
            chunk.event_times_ns.append(layout.at_ns)
            continue
        try:
            chunk.event_times_ns.append(parse_time(cells[places[layout.time]], zone))
        except ValueError as error:
            raise _fault(source, line, f"column {layout.time}: {error}") from None
    for feature in view.features:
        chunk.columns.append(_column(rows, places[feature.name], feature, source))
    return chunk


def _column(
    rows: Sequence[tuple[int, list[str]]], place: int, feature: Feature, source: str
) -> features_pb2.FeatureColumn:
    column = features_pb2.FeatureColumn(name=feature.name)
    values: list[Any] = []
    for index, (line, cells) in enumerate(rows):
        cell = cells[place]
        if not cell:
            column.nulls.append(index)
            values.append(ABSENT[feature.type])
            continue
        try:
            values.append(parse_value(feature.type, cell))
        except ValueError as error:
            raise _fault(source, line, f"column {feature.name}: {error} ({feature.type} wanted)") from None
    getattr(column, LISTS[feature.type]).extend(values)
    return column


def _fault(source: str, line: int, message: str) -> Fault:
    return Fault(Reason.ARGUMENT_INVALID, f"{source}, line {line}: {message}", line=str(line))
