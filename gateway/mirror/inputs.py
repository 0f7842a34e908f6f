"""From a block of the journal back to what a graph was, or would have been, given: by the request path's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gateway.conform import refuse_not_finite
from gateway.contract.document import ModelDocument, StoredInput
from gateway.contract.errors import Fault
from gateway.contract.missing import is_null
from gateway.contract.row import Rows
from gateway.contract.tensors import COLUMN_DTYPES, GRAPH_DTYPES, Array, GraphTensor
from gateway.features.store import OnlineStore
from gateway.journal import Block
from gateway.run import TENSOR, fill, read_view
from gateway.servable import Servable


class NotJournalledError(Exception):
    """The journal lacks something that a version takes."""


class Inputs(NamedTuple):
    """What a version is given for the rows of a block."""

    graph: dict[str, Array]
    errors: dict[int, Fault]
    """By row: why the version would have refused it."""
    segments: list[dict[str, str]]
    """Per row: the values to break figures down by."""
    sent: bool
    """Whether the caller sent the graph's inputs itself."""

    def row(self, index: int) -> dict[str, Array]:
        """The graph's inputs for one row."""
        return {name: values[index : index + 1] for name, values in self.graph.items()}


def inputs_of(servable: Servable, block: Block, answered: ModelDocument, store: OnlineStore) -> Inputs:
    """What the version is given; `answered` is the document of the version that answered, which names the payload.

    Raises NotJournalledError where the block does not have it.
    """
    if TENSOR in block.labels:
        return Inputs(_tensors(servable.inputs, block), {}, [{}] * len(block.rows), sent=True)
    errors: dict[int, Fault] = {}
    rows = _stored(servable, block, errors)
    requested = _requested(servable.document, block, answered)
    refuse_not_finite(servable.document, requested, errors)
    graph = fill(servable, len(block.rows), (rows, requested), store, errors)
    segments = _segments(servable, (rows, requested), store, len(block.rows))
    return Inputs(graph, errors, segments, sent=False)


def _stored(servable: Servable, block: Block, errors: dict[int, Fault]) -> dict[str, Rows]:
    n = len(block.rows)
    parts = dict(zip(block.labels, block.payload, strict=False))
    rows = {}
    for view in servable.views:
        stride, part = view.codec.stride, parts.get(view.key, b"")
        if len(part) != n * stride:
            raise NotJournalledError(view.name)
        raw = [part[start : start + stride] for start in range(0, len(part), stride)]
        decoded, _ = read_view(view, raw, block.time_ns, errors)
        rows[view.name] = decoded.rows
    return rows


def _requested(document: ModelDocument, block: Block, answered: ModelDocument) -> Mapping[str, Array]:
    """The request-time columns: those that callers sent, and the defaults of those that only this version knows."""
    n = len(block.rows)
    parts = block.payload[sum(map(any, block.labels)) :]
    if len(parts) != len(answered.requested):
        raise NotJournalledError("request-time inputs")
    sent = {item.request: (item, part) for item, part in zip(answered.requested, parts, strict=True)}
    columns: dict[str, Array] = {}
    for item in document.requested:
        dtype = COLUMN_DTYPES[item.type]
        if item.request in sent and sent[item.request][0].type is item.type:
            columns[item.request] = _column(sent[item.request][1], dtype, n)
        elif item.request not in sent and item.default is not None:
            columns[item.request] = np.full(n, item.default, dtype)
        else:
            raise NotJournalledError(item.request)
    return columns


def _column(part: bytes, dtype: type, n: int) -> Array:
    """One value per row; a copy, because nobody may write into the journal."""
    values: Array = np.array(json.loads(part), object) if dtype is np.object_ else np.frombuffer(part, dtype).copy()
    if len(values) != n:
        raise NotJournalledError("rows")
    return values


def _tensors(graph: tuple[GraphTensor, ...], block: Block) -> dict[str, Array]:
    """The tensors that the caller sent, in the order of the graph's inputs; their shapes follow from the rows."""
    if len(graph) != len(block.payload):
        raise NotJournalledError("graph inputs")
    return {item.name: _tensor(item, part, len(block.rows)) for item, part in zip(graph, block.payload, strict=True)}


def _tensor(item: GraphTensor, part: bytes, n: int) -> Array:
    dtype = GRAPH_DTYPES[item.type]
    if dtype is np.object_:
        values = np.array(json.loads(part), object)
    else:
        shape = [n, *(size if isinstance(size, int) and size > 0 else -1 for size in item.shape[1:])]
        try:
            values = np.frombuffer(part, dtype).reshape(shape).copy()
        except ValueError:  # more than one free dimension, or a graph that takes something else
            raise NotJournalledError(item.name) from None
    if len(values) != n or len(values.shape) != len(item.shape):
        raise NotJournalledError(item.name)
    return values


def _segments(
    servable: Servable, columns: tuple[Mapping[str, Rows], Mapping[str, Array]], store: OnlineStore, n: int
) -> list[dict[str, str]]:
    rows, requested = columns
    found: list[dict[str, str]] = [{} for _ in range(n)]
    by_name = {item.column: item for item in servable.document.inputs}
    for column in servable.document.segments:
        item = by_name[column]
        if isinstance(item, StoredInput):
            values = _stored_values(servable, item, rows, store)
        else:
            values = [str(value) for value in requested[item.request].tolist()]
        for segments, value in zip(found, values, strict=True):
            segments[column] = value
    return found


def _stored_values(servable: Servable, item: StoredInput, rows: Mapping[str, Rows], store: OnlineStore) -> list[str]:
    view = next(view for view in servable.views if view.name == item.view)
    place = view.codec.places[item.feature]
    values = rows[item.view][place.block][:, place.column].tolist()
    if item.feature in view.texts:
        words = store.texts(view.key, item.feature)
        values = [words[code] for code in values]
    absent = is_null(rows[item.view], place.bit).tolist()
    return ["" if gone else str(value) for gone, value in zip(absent, values, strict=True)]
