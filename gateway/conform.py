"""Whether a request is one that the model's document describes, and its columns as the graph wants them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from gateway.contract.document import ModelDocument, RequestInput
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Dtype
from gateway.contract.tensors import COLUMN_DTYPES, Array
from gateway.request import Request

MAX_ROWS: Final = 256
"""Rows of a batch, and of a run."""
MAX_KEY_BYTES: Final = 256
"""Bytes of an entity key in UTF-8."""
FIELDS: Final[Mapping[Dtype, str]] = {
    Dtype.FLOAT32: "number",
    Dtype.INT64: "integer",
    Dtype.STRING: "text",
    Dtype.BOOL: "flag",
}
"""What a Value's field (and with an s, an InputColumn's) is called that holds each type."""

EMPTY_KEY: Final = Fault(Reason.ENTITY_MISMATCH, "the entity key is empty; send the key that the features are kept by")
LONG_KEY: Final = Fault(Reason.ENTITY_MISMATCH, f"the entity key is longer than {MAX_KEY_BYTES} bytes")


def count_rows(document: ModelDocument, request: Request) -> int:
    """How many rows the request has; raises Fault where its columns are not those that the document declares."""
    if request.entities.keys() != set(document.entities):
        raise Fault(
            Reason.ENTITY_MISMATCH,
            f"model {document.name} takes {_listed(document.entities, 'no entity key')}; "
            f"the call gives {_listed(request.entities, 'none')}",
        )
    if unknown := request.inputs.keys() - {item.request for item in document.requested}:
        names = [item.request for item in document.requested]
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"model {document.name} has no request-time input {min(unknown)!r}; it takes {_listed(names, 'none')}",
        )
    if request.single:
        return 1
    lengths = {name: len(keys) for name, keys in request.entities.items()}
    lengths |= {name: len(values) for name, (_, values) in request.inputs.items()}
    n = next(iter(lengths.values()), 0)
    if different := [name for name, length in lengths.items() if length != n]:
        first = next(iter(lengths))
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"column {first!r} has {n} rows, but {different[0]!r} has {lengths[different[0]]}; send one value per row",
        )
    if not 1 <= n <= MAX_ROWS:
        raise Fault(Reason.BATCH_SIZE, f"the batch has {n} rows; 1 to {MAX_ROWS} are taken in one call")
    return n


def encode_keys(keys: Sequence[str], start: int, errors: dict[int, Fault]) -> list[bytes]:
    """The keys as bytes; rows (from `start`) whose key cannot be one get an error."""
    encoded = [key.encode() for key in keys]
    for index, key in enumerate(encoded):
        if not 0 < len(key) <= MAX_KEY_BYTES:
            errors.setdefault(start + index, LONG_KEY if key else EMPTY_KEY)
            encoded[index] = b"\0"
    return encoded


def request_columns(document: ModelDocument, request: Request, n: int) -> dict[str, Array]:
    """The request-time inputs as columns of n rows; raises Fault where one is absent or of another type."""
    return {item.request: _column(item, request, n) for item in document.requested}


def refuse_not_finite(document: ModelDocument, columns: Mapping[str, Array], errors: dict[int, Fault]) -> None:
    """Gives an error to the rows that have a NaN or infinite input, where the document refuses that."""
    if document.nan == "allow":
        return
    for item in document.requested:
        if item.type is not Dtype.FLOAT32 or np.isfinite(columns[item.request]).all():
            continue
        fault = Fault(
            Reason.INPUT_NOT_FINITE,
            f"request-time input {item.request!r} is NaN, infinite or too large for float32, "
            "and this model's document refuses that (nan: reject)",
        )
        for row in np.flatnonzero(~np.isfinite(columns[item.request])).tolist():
            errors.setdefault(row, fault)


def _column(item: RequestInput, request: Request, n: int) -> Array:
    given = request.inputs.get(item.request)
    if given is None:
        if item.default is None:
            raise Fault(
                Reason.INPUT_MISMATCH,
                f"request-time input {item.request!r} ({item.type}) is missing and has no default",
            )
        return np.full(n, item.default, COLUMN_DTYPES[item.type])
    dtype, values = given
    if dtype is not item.type and (dtype, item.type) != (Dtype.INT64, Dtype.FLOAT32):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"request-time input {item.request!r} is {item.type}: send it as `{FIELDS[item.type]}`, "
            f"not as `{FIELDS[dtype]}`",
        )
    return _typed(item.type, values)


def _typed(dtype: Dtype, values: Sequence[Any]) -> Array:
    if dtype is not Dtype.FLOAT32:
        return np.array(values, COLUMN_DTYPES[dtype])
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, which `nan` decides on
        return np.array(values, np.float64).astype(np.float32)


def _listed(names: Any, none: str) -> str:
    return ", ".join(repr(name[:100]) for name in names) or none
