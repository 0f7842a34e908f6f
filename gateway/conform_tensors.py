"""Whether a request that came as tensors is one that the model can answer. Pure.

Two forms are taken: the graph's own inputs, as any client of the Open Inference Protocol sends them, and entity keys
with request-time inputs, as our own face takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from gateway.conform import Columns, listed, missing_input, require_rows, to_float32
from gateway.contract.document import ModelDocument, RequestInput
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Dtype
from gateway.contract.tensors import COLUMN_DTYPES, GRAPH_DTYPES, Array, GraphTensor

ENTITY_ID: Final = "entity_id"
"""The tensor with the keys of a model that has one entity; those of a model with several bear the entities' names."""
MAX_INT64: Final = np.iinfo(np.int64).max
TAKES: Final[Mapping[Dtype, str]] = {Dtype.FLOAT32: "f", Dtype.INT64: "iu", Dtype.STRING: "O", Dtype.BOOL: "b"}
"""The kinds of numpy arrays that a request-time input of each type takes; a float32 takes whole numbers besides."""


def conform_tensors(
    document: ModelDocument, graph: Sequence[GraphTensor], model: str, tensors: Mapping[str, Array]
) -> Columns:
    """The columns of a request by tensors; raises Fault where they are neither of the two forms."""
    names = {item.request for item in document.requested}
    keys = {ENTITY_ID: document.entities[0]} if len(document.entities) == 1 else {}
    keys |= {entity: entity for entity in document.entities}
    if tensors.keys() <= names | keys.keys():
        return _by_entities(document, keys, tensors)
    if tensors.keys() & (keys.keys() - {item.name for item in graph}):
        raise _neither_form(document, graph, tensors)
    return _by_graph(graph, model, tensors)


def _by_entities(document: ModelDocument, keys: Mapping[str, str], tensors: Mapping[str, Array]) -> Columns:
    n = _same_rows(tensors)
    entities = {keys[name]: _keys(name, values) for name, values in tensors.items() if name in keys}
    if entities.keys() != document.entity_set:
        raise Fault(
            Reason.ENTITY_MISMATCH,
            f"model {document.name} takes the keys of {listed(document.entities, 'no entity')}; "
            f"the call gives {listed(entities, 'none')}",
        )
    return Columns(n, entities, {item.request: _requested(item, tensors, n) for item in document.requested})


def _by_graph(graph: Sequence[GraphTensor], model: str, tensors: Mapping[str, Array]) -> Columns:
    wanted = {item.name: item for item in graph}
    if unexpected := sorted(tensors.keys() - wanted.keys()):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"unexpected inference input {unexpected[0][:100]!r} for model {model!r}; "
            f"it takes {listed(wanted, 'none')}",
        )
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"expected {len(wanted)} inputs but got {len(tensors)} inputs for model {model!r}. "
            f"Got input(s) {listed(tensors, 'none')}, but missing required input(s) {listed(missing, 'none')}",
        )
    n = _same_rows(tensors)
    return Columns(n, {}, {}, {name: _graph_input(item, tensors[name], model) for name, item in wanted.items()})


def _graph_input(item: GraphTensor, values: Array, model: str) -> Array:
    dtype = np.dtype(GRAPH_DTYPES[item.type])
    if values.dtype != dtype:
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"inference input {item.name!r} is {values.dtype}, but model {model!r} expects {dtype}",
        )
    expected = [-1 if index == 0 or not isinstance(size, int) else size for index, size in enumerate(item.shape)]
    shape = list(values.shape)
    if len(shape) != len(expected) or any(e not in (-1, s) for e, s in zip(expected, shape, strict=True)):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"unexpected shape for input {item.name!r} for model {model!r}. Expected {expected}, got {shape}",
        )
    return values


def _requested(item: RequestInput, tensors: Mapping[str, Array], n: int) -> Array:
    values = tensors.get(item.request)
    if values is None:
        if item.default is None:
            raise missing_input(item)
        return np.full(n, item.default, COLUMN_DTYPES[item.type])
    if values.size != n:
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"request-time input {item.request!r} takes one value per row: shape [{n}] or [{n},1], "
            f"not {list(values.shape)}",
        )
    takes = TAKES[item.type] + ("iu" if item.type is Dtype.FLOAT32 else "")
    if values.dtype.kind not in takes:
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"request-time input {item.request!r} is {item.type}, but the call sends {values.dtype}",
        )
    column = values.reshape(n)
    if item.type is Dtype.FLOAT32:
        return to_float32(column)
    if column.dtype == np.uint64 and column.max() > MAX_INT64:
        raise Fault(Reason.INPUT_MISMATCH, f"request-time input {item.request!r} has a number too large for int64")
    return column.astype(COLUMN_DTYPES[item.type])


def _keys(name: str, values: Array) -> list[str]:
    if values.size != len(values) or values.dtype.kind not in "Oiu":
        raise Fault(
            Reason.ENTITY_MISMATCH, f"{name} takes one key per row, as BYTES or INT64 of shape [rows] or [rows,1]"
        )
    return [key if isinstance(key, str) else str(key) for key in values.reshape(-1).tolist()]


def _same_rows(tensors: Mapping[str, Array]) -> int:
    if not tensors:
        raise Fault(Reason.INPUT_MISMATCH, "the call has no inputs")
    rows = {name: values.shape[0] if values.shape else 0 for name, values in tensors.items()}
    first = next(iter(rows))
    if different := [name for name, n in rows.items() if n != rows[first]]:
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"input {first[:100]!r} has {rows[first]} rows, but {different[0][:100]!r} has {rows[different[0]]}",
        )
    return require_rows(rows[first])


def _neither_form(document: ModelDocument, graph: Sequence[GraphTensor], tensors: Mapping[str, Array]) -> Fault:
    requested = [item.request for item in document.requested]
    return Fault(
        Reason.INPUT_MISMATCH,
        f"the call mixes two forms: it gives {listed(tensors, 'none')}; send either the graph's inputs "
        f"({listed([item.name for item in graph], 'none')}), or the keys of {listed(document.entities, 'no entity')} "
        f"with the request-time inputs ({listed(requested, 'none')})",
    )
