"""What a draft needs of a model's graph: its inputs and outputs, and the labels of its classes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Dtype

TYPES: Final[Mapping[int, Dtype]] = {
    TensorProto.FLOAT: Dtype.FLOAT32,
    TensorProto.DOUBLE: Dtype.FLOAT32,
    TensorProto.INT64: Dtype.INT64,
    TensorProto.INT32: Dtype.INT64,
    TensorProto.BOOL: Dtype.BOOL,
    TensorProto.STRING: Dtype.STRING,
}
GRAPH_TYPES: Final[Mapping[int, str]] = {
    TensorProto.FLOAT: "tensor(float)",
    TensorProto.DOUBLE: "tensor(double)",
    TensorProto.INT64: "tensor(int64)",
    TensorProto.INT32: "tensor(int32)",
    TensorProto.BOOL: "tensor(bool)",
    TensorProto.STRING: "tensor(string)",
}
LABELS: Final = ("classlabels_strings", "classlabels_int64s", "classlabels_ints", "class_labels")


class Input(NamedTuple):
    """A graph input; `columns` is 0 where the graph does not say how many."""

    name: str
    type: Dtype
    graph_type: str
    columns: int
    categories: frozenset[int] = frozenset()
    """Columns that its trees compare for equality, which are codes of categories."""


class Output(NamedTuple):
    """A graph output; `columns` is 0 where the graph does not say how many."""

    name: str
    is_float: bool
    columns: int


class Graph(NamedTuple):
    """What a draft needs of a graph."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    labels: tuple[str, ...]
    """The class labels, where a classifier has them."""
    changes: tuple[str, ...] = ()
    """What registration will change of it, in sentences."""


def read_graph(model: ModelProto, labels: tuple[str, ...] = (), changes: tuple[str, ...] = ()) -> Graph:
    """What a draft needs of the model, which was changed as `changes` says to be servable."""
    categories = _categories(model)
    return Graph(
        tuple(_input(value, categories.get(value.name, frozenset())) for value in model.graph.input),
        tuple(_output(value) for value in model.graph.output),
        labels,
        changes,
    )


def class_labels(model: ModelProto) -> tuple[str, ...]:
    """The labels of the classes: those that name the scores, or else those of the first classifier."""
    nodes = [node for node in model.graph.node if node.domain == "ai.onnx.ml" and node.op_type != "LabelEncoder"]
    for node in sorted(nodes, key=lambda node: node.op_type != "ZipMap"):
        for attribute in node.attribute:
            if attribute.name in LABELS and (attribute.strings or attribute.ints):
                texts = [text.decode(errors="replace") for text in attribute.strings]
                return tuple(texts or map(str, attribute.ints))
    return ()


def _categories(model: ModelProto) -> dict[str, frozenset[int]]:
    """The columns of each input that trees compare for equality."""
    found: dict[str, frozenset[int]] = {}
    for node in model.graph.node:
        if node.domain == "ai.onnx.ml" and node.op_type.startswith("TreeEnsemble") and node.input:
            found[node.input[0]] = found.get(node.input[0], frozenset()) | _compared(node)
    return found


def _compared(node: NodeProto) -> frozenset[int]:
    lists = {attribute.name: attribute for attribute in node.attribute}
    if not {"nodes_modes", "nodes_featureids"} <= lists.keys():
        return frozenset()
    pairs = zip(lists["nodes_modes"].strings, lists["nodes_featureids"].ints, strict=False)
    return frozenset(column for mode, column in pairs if mode == b"BRANCH_EQ")


def _input(value: ValueInfoProto, categories: frozenset[int]) -> Input:
    kind = value.type.tensor_type.elem_type
    if kind not in TYPES:
        raise Fault(
            Reason.ADMISSION_REFUSED,
            f"graph input {value.name!r:.80} is {_type_name(value)}, which no column can feed: export the model for "
            "inputs of float32, float64, int64, int32, bool or text",
            check="signature",
        )
    return Input(value.name, TYPES[kind], GRAPH_TYPES[kind], _width(value), categories)


def _type_name(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    return f"a tensor of {TensorProto.DataType.Name(kind).lower()}" if kind in TensorProto.DataType.values() else "none"


def _output(value: ValueInfoProto) -> Output:
    is_tensor = value.type.WhichOneof("value") == "tensor_type"
    is_float = is_tensor and value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
    return Output(value.name, is_float, _width(value) if is_tensor else 0)


def _width(value: ValueInfoProto) -> int:
    """How many columns a tensor has: 1 for a list of rows, 0 where it is not said."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) == 1:
        return 1
    return int(dims[1].dim_value) if len(dims) == 2 else 0
