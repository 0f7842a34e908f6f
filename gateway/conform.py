"""Whether a request is one that the model's document describes, and its columns as the graph wants them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from gateway.contract.document import ModelDocument, RequestInput
from gateway.contract.errors import Fault, Reason
from gateway.contract.row import Rows
from gateway.contract.schema import Dtype
from gateway.contract.tensors import COLUMN_DTYPES, Array, Feed, too_large
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


class Columns(NamedTuple):
    """A request that conforms."""

    n: int
    """How many rows it has."""
    entities: Mapping[str, Sequence[str]]
    """Keys by entity."""
    requested: Mapping[str, Array]
    """Request-time inputs by name, each of shape (n,)."""
    tensors: Mapping[str, Array] | None = None
    """The graph's inputs by name, where the caller sent them itself and nothing is read from the store."""

    def take(self, rows: Sequence[int]) -> Columns:
        """The same columns with these rows only."""
        picked = list(rows)
        return Columns(
            len(picked),
            {entity: [keys[row] for row in picked] for entity, keys in self.entities.items()},
            {name: values[picked] for name, values in self.requested.items()},
            None if self.tensors is None else {name: values[picked] for name, values in self.tensors.items()},
        )


def conform(document: ModelDocument, request: Request) -> Columns:
    """The columns of a request by entities and inputs; raises Fault where they are not those that are declared."""
    _check_names(document, request)
    n = 1 if request.single else _count_rows(request)
    return Columns(n, request.entities, {item.request: _column(item, request, n) for item in document.requested})


def encode_keys(keys: Sequence[str], start: int, errors: dict[int, Fault]) -> list[bytes]:
    """The keys as bytes; rows (from `start`) whose key cannot be one get an error."""
    encoded = [key.encode() for key in keys]
    for index, key in enumerate(encoded):
        if not 0 < len(key) <= MAX_KEY_BYTES:
            errors.setdefault(start + index, LONG_KEY if key else EMPTY_KEY)
            encoded[index] = b"\0"
    return encoded


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


def refuse_too_large(
    feeds: Sequence[Feed], rows: Mapping[str, Rows], requested: Mapping[str, Array], errors: dict[int, Fault]
) -> None:
    """Gives an error to the rows that have a whole number which an input of int32 cannot hold."""
    for feed, piece, bad in too_large(feeds, rows, requested):
        if piece.view is None:
            fault = Fault(
                Reason.INPUT_MISMATCH, f"request-time input {piece.block!r} is too large: this model takes it as int32"
            )
        else:
            fault = Fault(
                Reason.MODEL_FAILED, f"a feature of view {piece.view} is too large for the model's int32 {feed.name!r}"
            )
        for row in bad:
            errors.setdefault(row, fault)


def require_rows(n: int) -> int:
    """The number of rows; raises Fault where a call may not have so many."""
    if not 1 <= n <= MAX_ROWS:
        raise Fault(Reason.BATCH_SIZE, f"the batch has {n} rows; 1 to {MAX_ROWS} are taken in one call")
    return n


def listed(names: Any, none: str) -> str:
    """Names for a message, each quoted and cut to a length that a person reads."""
    return ", ".join(repr(name[:100]) for name in names) or none


def to_float32(values: Any) -> Array:
    """Numbers as float32; one that is too large becomes infinite, which `nan` decides on."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)


def missing_input(item: RequestInput) -> Fault:
    """What a caller is told who leaves an input out that has no default."""
    return Fault(
        Reason.INPUT_MISMATCH, f"request-time input {item.request!r} ({item.type}) is missing and has no default"
    )


def _check_names(document: ModelDocument, request: Request) -> None:
    if request.entities.keys() != document.entity_set:
        raise Fault(
            Reason.ENTITY_MISMATCH,
            f"model {document.name} takes {listed(document.entities, 'no entity key')}; "
            f"the call gives {listed(request.entities, 'none')}",
        )
    if not request.inputs:
        return
    names = [item.request for item in document.requested]
    if unknown := request.inputs.keys() - set(names):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"model {document.name} has no request-time input {min(unknown)!r}; it takes {listed(names, 'none')}",
        )


def _count_rows(request: Request) -> int:
    lengths = {name: len(keys) for name, keys in request.entities.items()}
    lengths |= {name: len(values) for name, (_, values) in request.inputs.items()}
    n = next(iter(lengths.values()), 0)
    if different := [name for name, length in lengths.items() if length != n]:
        first = next(iter(lengths))
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"column {first!r} has {n} rows, but {different[0]!r} has {lengths[different[0]]}; send one value per row",
        )
    return require_rows(n)


def _column(item: RequestInput, request: Request, n: int) -> Array:
    given = request.inputs.get(item.request)
    if given is None:
        if item.default is None:
            raise missing_input(item)
        return np.full(n, item.default, COLUMN_DTYPES[item.type])
    dtype, values = given
    if dtype is not item.type and (dtype, item.type) != (Dtype.INT64, Dtype.FLOAT32):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"request-time input {item.request!r} is {item.type}: send it as `{FIELDS[item.type]}`, "
            f"not as `{FIELDS[dtype]}`",
        )
    return to_float32(values) if item.type is Dtype.FLOAT32 else np.array(values, COLUMN_DTYPES[item.type])
