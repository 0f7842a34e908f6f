"""From feature columns to the graph's inputs, and from its outputs to scores and decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.document import ModelDocument, RequestInput, StoredInput
from gateway.contract.missing import is_null
from gateway.contract.row import RowCodec, Rows
from gateway.contract.schema import Dtype, FeatureView

Array = npt.NDArray[Any]
Dictionaries = Mapping[tuple[str, str], Array]
"""The strings of each (view name, feature name), as an object array indexed by code."""

GRAPH_DTYPES: Final[Mapping[str, type]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
"""Types of graph inputs that columns can feed, by the graph runtime's names."""

ACCEPTS: Final[Mapping[Dtype, tuple[type, ...]]] = {
    Dtype.FLOAT32: (np.float32, np.float64),
    Dtype.INT64: (np.int64, np.int32, np.float32, np.float64),
    Dtype.BOOL: (np.bool_, np.int64, np.int32, np.float32, np.float64),
    Dtype.STRING: (np.object_,),
}
"""Which graph types a column of each type may feed."""

COLUMN_DTYPES: Final[Mapping[Dtype, type]] = {
    Dtype.FLOAT32: np.float32,
    Dtype.INT64: np.int64,
    Dtype.BOOL: np.bool_,
    Dtype.STRING: np.object_,
}
"""How a request-time column of each type is held."""


class GraphTensor(NamedTuple):
    """An input or output of the graph; -1 or a name in `shape` is a free dimension."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Piece(NamedTuple):
    """Neighbouring columns of a graph input that come from one place."""

    view: str | None
    """The view's name; None for a request-time input."""
    block: str
    """The block of the view's rows, or the request-time input's name."""
    columns: tuple[int, ...]
    """Columns of that block."""
    start: int
    """Where in the graph input they go."""
    feature: str
    """For strings, whose dictionary: the feature's name."""
    bit: int
    """For strings, the bit of the feature among the nulls."""
    default: str
    """For strings, what stands for null."""


class Feed(NamedTuple):
    """How one graph input is filled."""

    name: str
    dtype: type
    width: int
    flat: bool
    """Whether the graph wants shape (n,) instead of (n, width)."""
    pieces: tuple[Piece, ...]


def plan_inputs(
    document: ModelDocument, views: Mapping[str, FeatureView], graph: Sequence[GraphTensor]
) -> tuple[Feed, ...]:
    """Plans how each graph input is filled, or raises ValueError naming the input and what contradicts.

    `views` are the pinned views by name.
    """
    inputs = {tensor.name: tensor for tensor in graph}
    if unknown := sorted({item.feeds for item in document.inputs} - set(inputs)):
        raise ValueError(f"inputs feed {', '.join(unknown)}, but the graph has {', '.join(sorted(inputs))}")
    if unfed := sorted(set(inputs) - {item.feeds for item in document.inputs}):
        raise ValueError(f"no input of the document feeds the graph's {', '.join(unfed)}")
    codecs = {name: RowCodec(view) for name, view in views.items()}
    return tuple(_plan_feed(document, codecs, tensor) for tensor in graph)


def assemble(
    feeds: Sequence[Feed], n: int, rows: Mapping[str, Rows], texts: Dictionaries, requested: Mapping[str, Array]
) -> dict[str, Array]:
    """Fills the graph's inputs for n rows.

    `rows` are the settled rows by view name, `requested` the request-time columns by name, each of shape (n,).
    """
    filled = {}
    for feed in feeds:
        if len(feed.pieces) == 1:
            values = _values(feed.pieces[0], rows, texts, requested)
            out: Array = np.ascontiguousarray(values, feed.dtype)
        else:
            out = np.empty((n, feed.width), feed.dtype)
            for piece in feed.pieces:
                out[:, piece.start : piece.start + len(piece.columns)] = _values(piece, rows, texts, requested)
        filled[feed.name] = out.reshape(n) if feed.flat else out
    return filled


def narrow(feeds: Sequence[Feed]) -> tuple[Feed, ...]:
    """The feeds of graph inputs that hold smaller whole numbers than columns do."""
    return tuple(feed for feed in feeds if feed.dtype is np.int32)


def too_large(
    feeds: Sequence[Feed], rows: Mapping[str, Rows], requested: Mapping[str, Array]
) -> Iterator[tuple[Feed, Piece, list[int]]]:
    """The rows, by what fills an input of int32, whose value it cannot hold: it would silently become another one."""
    for feed in feeds:
        for piece in feed.pieces:
            values = _values(piece, rows, {}, requested)
            if values.dtype == np.int64 and (bad := (values != values.astype(np.int32)).any(axis=1)).any():
                yield feed, piece, np.flatnonzero(bad).tolist()


def row_by_row(run: Callable[[dict[str, Array]], Array], inputs: Mapping[str, Array]) -> Array:
    """The output for rows that are run one at a time, for a graph with a fixed batch of one."""
    n = len(next(iter(inputs.values())))
    single = [run({name: values[row : row + 1] for name, values in inputs.items()}) for row in range(n)]
    return np.concatenate([np.array(output).reshape(1, -1) for output in single])


def takes_one_row(graph: Sequence[GraphTensor]) -> bool:
    """Whether the graph's inputs take a single row at a time, because it was exported with a fixed batch of one."""
    return any(tensor.shape and tensor.shape[0] == 1 for tensor in graph)


class Results(NamedTuple):
    """What a model says of n rows."""

    scores: list[float]
    """One per row."""
    decisions: list[str] | None
    """One per row, where the document declares a decision."""
    rankings: list[list[tuple[str, float]]] | None
    """For multiclass and ranking: labels with their scores, best first."""


def interpret(document: ModelDocument, output: Array, n: int) -> Results:
    """Maps the graph output that `document.output.score` names to scores, decisions and rankings.

    Raises ValueError where its shape is not one that the document's task can mean.
    """
    values = output.reshape(n, -1)
    if document.output.labels:
        return _ranked(document, values.astype(np.float64))
    column, width = document.output.column, values.shape[1]
    if column is None and width != 1:
        raise ValueError(f"output {document.output.score} has {width} columns; name one with output.column")
    if column is not None and column >= width:
        raise ValueError(f"output {document.output.score} has {width} columns, but output.column is {column}")
    scores = values[:, column or 0].tolist()
    return Results(scores, _decisions(document, scores), None)


def _plan_feed(document: ModelDocument, codecs: Mapping[str, RowCodec], tensor: GraphTensor) -> Feed:
    dtype = GRAPH_DTYPES.get(tensor.type)
    if dtype is None:
        raise ValueError(f"graph input {tensor.name} is a {tensor.type}, which no feature type can feed")
    pieces: list[Piece] = []
    for item in (item for item in document.inputs if item.feeds == tensor.name):
        piece = _plan_piece(item, codecs, dtype, start=sum(len(p.columns) for p in pieces))
        if pieces and piece.view and piece.block != "code" and pieces[-1][:2] == piece[:2]:
            piece = pieces[-1]._replace(columns=pieces.pop().columns + piece.columns)
        pieces.append(piece)
    width, shape = sum(len(p.columns) for p in pieces), tensor.shape
    if len(shape) not in (1, 2):
        raise ValueError(
            f"graph input {tensor.name} has {len(shape)} dimensions; only (rows) and (rows, columns) can be fed"
        )
    wanted = shape[1] if len(shape) == 2 else 1
    if isinstance(wanted, int) and wanted >= 0 and wanted != width:
        raise ValueError(f"graph input {tensor.name} takes {wanted} columns, but {width} inputs feed it")
    return Feed(tensor.name, dtype, width, len(shape) == 1, tuple(pieces))


def _plan_piece(item: StoredInput | RequestInput, codecs: Mapping[str, RowCodec], dtype: type, start: int) -> Piece:
    if isinstance(item, RequestInput):
        kind, piece = item.type, Piece(None, item.request, (0,), start, "", 0, "")
    else:
        codec = codecs[item.view]
        if item.feature not in codec.places:
            raise ValueError(f"view {item.view} has no feature {item.feature}")
        feature, place = codec.view.feature(item.feature), codec.places[item.feature]
        kind = feature.type
        default = feature.default if isinstance(feature.default, str) else ""
        piece = Piece(item.view, place.block, (place.column,), start, item.feature, place.bit, default)
    if dtype not in ACCEPTS[kind]:
        raise ValueError(f"{item.column} is {kind}, which cannot feed graph input {item.feeds} of {np.dtype(dtype)}")
    return piece


def _values(piece: Piece, rows: Mapping[str, Rows], texts: Dictionaries, requested: Mapping[str, Array]) -> Array:
    if piece.view is None:
        return requested[piece.block].reshape(-1, 1)
    block: Array = rows[piece.view][piece.block]
    if piece.block != "code":
        return block[:, _index(piece.columns)]
    values: Array = texts[piece.view, piece.feature][block[:, piece.columns[0]]]
    null = is_null(rows[piece.view], piece.bit)
    if null.any():
        values[null] = piece.default
    return values.reshape(-1, 1)


def _index(columns: tuple[int, ...]) -> slice | list[int]:
    first, last = columns[0], columns[-1] + 1
    return slice(first, last) if columns == tuple(range(first, last)) else list(columns)


def _ranked(document: ModelDocument, values: Array) -> Results:
    labels = document.output.labels
    if values.shape[1] != len(labels):
        raise ValueError(f"output {document.output.score} has {values.shape[1]} columns, but {len(labels)} labels")
    sign = -1.0 if document.output.direction == "higher" else 1.0
    k = document.decision.k if document.decision.kind == "top_k" else len(labels)
    order = np.argsort(sign * values, axis=1, kind="stable")[:, :k]
    ordered = np.take_along_axis(values, order, axis=1)
    rankings = [
        [(labels[column], score) for column, score in zip(columns, scores, strict=True)]
        for columns, scores in zip(order.tolist(), ordered.tolist(), strict=True)
    ]
    decided = document.decision.kind != "none"
    return Results(ordered[:, 0].tolist(), [r[0][0] for r in rankings] if decided else None, rankings)


def _decisions(document: ModelDocument, scores: list[float]) -> list[str] | None:
    decision = document.decision
    if decision.kind != "threshold":
        return None
    threshold, hit, otherwise = decision.threshold, decision.hit, decision.otherwise
    if document.output.direction == "higher":
        return [hit if score >= threshold else otherwise for score in scores]
    return [hit if score <= threshold else otherwise for score in scores]
