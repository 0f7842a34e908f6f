"""Samples in the forms that notebooks have them in, matched to the inputs of a model's document. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gateway.contract.document import ModelDocument, RequestInput, StoredInput
from gateway.contract.schema import Dtype


class Sample(NamedTuple):
    """Rows, column by column."""

    columns: dict[str, list[Any]]
    n: int
    named: bool
    """Whether the columns have names of their own, or only an order."""


def read_sample(given: Any) -> Sample:
    """Reads a DataFrame, a mapping of columns, a list of rows by name, or an array of rows.

    A mapping of single values is one row. Raises ValueError or TypeError saying what cannot be read.
    """
    if hasattr(given, "columns") and hasattr(given, "__getitem__"):
        return _of_columns({str(name): list(given[name]) for name in given.columns})
    if isinstance(given, Mapping):
        return _of_columns({str(name): _as_list(values) for name, values in given.items()})
    if isinstance(given, Sequence) and not isinstance(given, str) and given and isinstance(given[0], Mapping):
        names = list(dict.fromkeys(name for row in given for name in row))
        return _of_columns({str(name): [row.get(name) for row in given] for name in names})
    array = np.asarray(given)
    if array.ndim != 2:
        raise TypeError(
            "a sample is a DataFrame, an array of rows and columns, a mapping of columns, or a list of rows by name; "
            f"this is a {type(given).__name__} of {array.ndim} dimensions"
        )
    columns = {str(place + 1): array[:, place].tolist() for place in range(array.shape[1])}
    return Sample(columns, array.shape[0], named=False)


def match(document: ModelDocument, sample: Sample) -> list[str | None]:
    """The sample's column for each input of the document, None where there is none and a default is declared.

    By name, or by order where the sample has no names; raises ValueError naming what is missing.
    """
    if not sample.named:
        if len(sample.columns) != len(document.inputs):
            raise ValueError(
                f"the sample has {len(sample.columns)} columns without names, and {document.name} takes "
                f"{len(document.inputs)}: {_listed([item.column for item in document.inputs])}"
            )
        return list(sample.columns)
    by_name = {slug(name): name for name in sample.columns} | {name: name for name in sample.columns}
    found = [_column(item, by_name) for item in document.inputs]
    absent = [
        item.column
        for item, name in zip(document.inputs, found, strict=True)
        if name is None and (isinstance(item, StoredInput) or item.default is None)
    ]
    if absent:
        raise no_column(absent, document.name, sample, len(document.inputs))
    return found


def no_column(absent: Sequence[str], model: str, sample: Sample, wanted: int) -> ValueError:
    """What to say where the sample lacks inputs of a model that takes so many in all."""
    by_order = "; to give them by their order, give rows without names: sample.to_numpy()"
    return ValueError(
        f"the sample has no column for {_listed(absent)} of {model}; it has {_listed(list(sample.columns))}"
        + (by_order if len(sample.columns) == wanted else "")
    )


def cells(document: ModelDocument, sample: Sample, stored: Mapping[str, Dtype]) -> list[dict[str, str]]:
    """The rows as golden files have them: a text for each input, empty where there is no value.

    `stored` has the types of stored features, by their columns.
    """
    found = {}
    for item, name in zip(document.inputs, match(document, sample), strict=True):
        kind = item.type if isinstance(item, RequestInput) else stored[item.column]
        values = sample.columns[name] if name is not None else [None] * sample.n
        found[item.column] = [cell(value, kind, item.column) for value in values]
    return [{name: values[row] for name, values in found.items()} for row in range(sample.n)]


def cell(value: Any, kind: Dtype, column: str) -> str:
    """A value as the text that golden rows have for it; raises ValueError where it is not of the type."""
    if is_missing(value):
        return ""
    try:
        match kind:
            case Dtype.STRING:
                return str(value)
            case Dtype.BOOL:
                return "true" if bool(value) else "false"
            case Dtype.INT64 if int(value) == float(value):
                return str(int(value))
            case Dtype.FLOAT32:
                return repr(float(value))
    except (TypeError, ValueError):
        pass
    raise ValueError(f"column {column} has {value!r:.80}, which is no {kind}")


def is_missing(value: Any) -> bool:
    """Whether it stands for no value: None, NaN, or what pandas writes for one."""
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def slug(text: str) -> str:
    """The text as a name of a document: lower-case letters, digits and underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:63]
    return name if name[:1].isalpha() else f"x_{name}"[:63]


def _of_columns(columns: dict[str, list[Any]]) -> Sample:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "the sample has no rows" if lengths <= {0} else f"the sample's columns have {sorted(lengths)} values"
        )
    return Sample(columns, lengths.pop(), named=True)


def _as_list(values: Any) -> list[Any]:
    is_column = hasattr(values, "__len__") and not isinstance(values, str | bytes)
    return list(values) if is_column else [values]


def _column(item: StoredInput | RequestInput, by_name: Mapping[str, str]) -> str | None:
    names = (item.column, item.feature) if isinstance(item, StoredInput) else (item.column,)
    return next((by_name[name] for name in names if name in by_name), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
