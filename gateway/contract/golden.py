"""Golden rows: what the trainer says that the model answers, checked wherever the model is loaded.

A CSV file with one column per input of the document, named as the document names it (`view.feature`, or the
request-time input's name), and the expected result: a column `expected` with the score, or a column
`expected:LABEL` for each label of a multiclass or ranking model. An empty cell is a missing value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.document import ModelDocument, StoredInput
from gateway.contract.missing import MissingPolicy
from gateway.contract.row import RowCodec, Rows
from gateway.contract.schema import Dtype, FeatureView, Scalar
from gateway.contract.tensors import COLUMN_DTYPES, Array, Feed, assemble

MAX_ROWS: Final = 1000


class Golden(NamedTuple):
    """Golden rows, as the request path holds rows."""

    n: int
    rows: dict[str, Rows]
    """Encoded, decoded and settled stored features, by view name."""
    texts: dict[tuple[str, str], Array]
    """Dictionaries of the strings."""
    requested: dict[str, Array]
    """Request-time columns, by name."""
    expected: npt.NDArray[np.float64]
    """Shape (n, 1), or (n, labels)."""


def read_golden(text: str, document: ModelDocument, views: Mapping[str, FeatureView]) -> Golden:
    """Reads golden rows; raises ValueError naming the column or row that is wrong."""
    records = list(csv.DictReader(io.StringIO(text)))
    if not 1 <= len(records) <= MAX_ROWS:
        raise ValueError(f"golden rows: {len(records)} rows; 1 to {MAX_ROWS} are taken")
    labels = document.output.labels
    expected = [f"expected:{label}" for label in labels] if labels else ["expected"]
    wanted = [item.column for item in document.inputs] + expected
    if absent := [name for name in wanted if name not in records[0]]:
        raise ValueError(
            f"golden rows: no column {', '.join(absent)}; the file has {', '.join(map(str, [*records[0]][:20]))}, "
            f"and the document wants {', '.join(wanted)}: name both alike"
        )
    if any(None in record or None in record.values() for record in records):
        raise ValueError("golden rows: a row has more or fewer cells than the header")
    rows, texts = {}, {}
    for name, view in views.items():
        rows[name], found = _stored(view, [i for i in document.stored if i.view == name], records)
        texts.update(found)
    return Golden(
        n=len(records),
        rows=rows,
        texts=texts,
        requested={i.request: _requested(i.request, i.type, i.default, records) for i in document.requested},
        expected=np.array([[_number(record[name], name) for name in expected] for record in records]),
    )


def golden_inputs(feeds: Sequence[Feed], golden: Golden) -> dict[str, Array]:
    """The graph's inputs for the golden rows, filled as the request path fills them."""
    return assemble(feeds, golden.n, golden.rows, golden.texts, golden.requested)


def check_golden(
    document: ModelDocument, feeds: Sequence[Feed], golden: Golden, run: Callable[[dict[str, Array]], Array]
) -> float:
    """Runs the golden rows through `run` (graph inputs to the score output) and returns the largest difference.

    Raises ValueError naming the first row whose result lies further from the expected one than the tolerance.
    """
    output = np.asarray(run(golden_inputs(feeds, golden)), np.float64).reshape(golden.n, -1)
    labels = document.output.labels
    got = output if labels else output[:, [document.output.column or 0]]
    if got.shape != golden.expected.shape:
        raise ValueError(f"golden rows: the graph gives {got.shape[1]} scores a row, not {golden.expected.shape[1]}")
    difference = np.abs(got - golden.expected)
    bad = ~(difference <= document.tolerance * np.maximum(1.0, np.abs(golden.expected)))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"golden row {row + 1}: the graph answers {got[row, column]:.9g}, "
            f"expected {golden.expected[row, column]:.9g} (tolerance {document.tolerance:g}; "
            f"{int(bad.any(axis=1).sum())} of {golden.n} rows differ)"
        )
    return float(difference.max())


def _stored(
    view: FeatureView, items: Sequence[StoredInput], records: Sequence[Mapping[str, str]]
) -> tuple[Rows, dict[tuple[str, str], Array]]:
    used = {item.feature: item.column for item in items}
    columns: dict[str, Any] = {}
    nulls: dict[str, Any] = {}
    texts: dict[tuple[str, str], Array] = {}
    for feature in view.features:
        cells = [record[used[feature.name]] for record in records] if feature.name in used else [""] * len(records)
        nulls[feature.name] = np.array([cell == "" for cell in cells])
        if feature.type is Dtype.STRING:
            words = sorted(set(cells))
            texts[view.name, feature.name] = np.array(words, object)
            columns[feature.name] = np.array([words.index(cell) for cell in cells])
        else:
            columns[feature.name] = _column(feature.name, feature.type, cells)
    codec = RowCodec(view)
    zeros = np.zeros(len(records), np.int64)
    raw = codec.encode(zeros, zeros, columns, nulls)
    decoded = codec.decode([raw[i : i + codec.stride] for i in range(0, len(raw), codec.stride)])
    # At time 0 nothing is stale, so only what is missing takes its default.
    settled = MissingPolicy(codec, used).settle(decoded, now_ns=0)
    if settled and settled.rejected:
        index, (_, feature_name) = min(settled.rejected.items())
        raise ValueError(f"golden row {index + 1}: {view.name}.{feature_name} is empty, but its policy is `reject`")
    return decoded.rows, texts


def _requested(name: str, dtype: Dtype, default: Scalar | None, records: Sequence[Mapping[str, str]]) -> Array:
    cells = [record[name] for record in records]
    if dtype is Dtype.STRING:
        return np.array([cell or default or "" for cell in cells], object)
    if default is not None:
        cells = [cell or str(default) for cell in cells]
    return _column(name, dtype, cells)


def _column(name: str, dtype: Dtype, cells: Sequence[str]) -> Array:
    """The cells as numbers; an empty one becomes NaN, 0 or false."""
    match dtype:
        case Dtype.FLOAT32:
            values: list[Any] = [_number(cell or "nan", name) for cell in cells]
        case Dtype.INT64:
            values = [_whole(cell or "0", name) for cell in cells]
        case _:
            values = [_truth(cell or "false", name) for cell in cells]
    return np.array(values).astype(COLUMN_DTYPES[dtype])


def _number(cell: str, name: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"golden rows: column {name} has {cell!r}, which is not a number") from None


def _whole(cell: str, name: str) -> int:
    number = _number(cell, name)
    if number != int(number):
        raise ValueError(f"golden rows: column {name} has {cell!r}, which is not a whole number")
    return int(cell) if cell.lstrip("+-").isdigit() else int(number)


def _truth(cell: str, name: str) -> bool:
    match cell.lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise ValueError(f"golden rows: column {name} has {cell!r}, which is neither true nor false")
