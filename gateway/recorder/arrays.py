"""From what the journal keeps, numbers of names among it, to Arrow's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gateway.contract.errors import Reason
from gateway.recorder.definitions import Definition

NEWER: Final = "OTHER"
"""Stands for a reason or an arm that a worker of a newer release has written."""
REASONS: Final = (*map(str, Reason), NEWER)
"""By their numbers in the journal, less one."""

Numbers = npt.NDArray[Any]


def decisions(parts: Sequence[tuple[Numbers, Definition | None]]) -> pa.DictionaryArray:
    """Indices of each version's own labels become indices of all labels."""
    everything: dict[str, int] = {}
    indices: list[Numbers] = []
    for own, definition in parts:
        labels = definition.document.decision_labels if definition else ()
        places = np.array([everything.setdefault(label, len(everything)) for label in labels] + [-1], np.int32)
        indices.append(places[np.where((own >= 0) & (own < len(labels)), own, -1)])
    joined = np.concatenate(indices)
    return word(list(everything) or [""], joined, joined < 0)


def reasons(numbers: Numbers) -> pa.DictionaryArray:
    """The names of reasons; null for 0."""
    return word(REASONS, np.minimum(numbers.astype(np.int32) - 1, len(REASONS) - 1), numbers == 0)


def word(words: Sequence[str], places: Numbers, null: Numbers | None = None) -> pa.DictionaryArray:
    """Text by its place in a list, which may name one twice."""
    unique = {word: place for place, word in enumerate(dict.fromkeys(words))}
    order = np.array([unique[word] for word in words], np.int32)
    chosen = order[np.where(null, 0, places)] if null is not None else order[places]
    return pa.DictionaryArray.from_arrays(pa.array(chosen, pa.int32(), mask=null), list(unique))


def scores(values: Numbers) -> pa.Array:
    """Scores; null where there is none."""
    return pa.array(values, mask=np.isnan(values))


def each(values: Sequence[int], sizes: Sequence[int]) -> Numbers:
    """A value for each block becomes one for each of its rows."""
    return np.repeat(np.array(values, np.int64), sizes)


def nullable(values: Numbers, nothing: int) -> pa.Array:
    """Null where a number stands for nothing."""
    return pa.array(values, mask=values == nothing)


def in_schema(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A table of the columns, each in its declared type."""
    return pa.table([_array(columns[field.name], field) for field in schema], schema=schema)


def _array(values: Any, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.Array):
        return values if values.type == field.type else values.cast(field.type)
    if isinstance(values, np.ndarray):
        return pa.array(values).cast(field.type)
    return pa.array(values, field.type)
