"""Small models made by scripts, and what the cases of the hostile corpus are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from control.registry.admission.examine import Upload
from control.registry.admission.report import Check, Limits
from gateway.contract.document import ModelDocument

GOLDEN: Final = b"a,b,c,expected\n0,0,0,0.25\n1,0,0,0.75\n0,1,1,0.25\n"


DOCUMENT: Final = ModelDocument.model_validate(
    {
        "name": "churn",
        "task": "binary",
        "purpose": "Shows what tests need.",
        "owner": {"person": "ana"},
        "inputs": [{"request": name, "type": "float32", "feeds": "X"} for name in "abc"],
        "output": {"score": "score"},
    }
)


TREE: Final[dict[str, Any]] = {
    "n_targets": 1,
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "nodes_hitrates": [1.0, 1.0, 1.0],
    "nodes_missing_value_tracks_true": [0, 0, 0],
    "target_treeids": [0, 0],
    "target_nodeids": [1, 2],
    "target_ids": [0, 0],
    "target_weights": [0.25, 0.75],
}


class Case(NamedTuple):
    """A model, what it is said to be, and which check must refuse it."""

    model: bytes
    check: Check
    golden: bytes = GOLDEN
    document: ModelDocument = DOCUMENT
    limits: Limits = Limits()

    @property
    def upload(self) -> Upload:
        """As it is uploaded."""
        digests = (hashlib.sha256(data).hexdigest() for data in (self.model, self.golden))
        return Upload(self.model, self.golden, *digests, self.document, {})


def tree_node(**changes: Any) -> NodeProto:
    """A tree: 0.25 where the first column is at most 0.5, else 0.75. A change to nothing removes the attribute."""
    return ml_node("TreeEnsembleRegressor", {**TREE, **changes})


def ml_node(operator: str, attributes: dict[str, Any], outputs: tuple[str, ...] = ("score",)) -> NodeProto:
    """A node of ai.onnx.ml from the input to the score."""
    filled = {name: value for name, value in attributes.items() if value is not None and value != []}
    return helper.make_node(operator, ["X"], [*outputs], domain="ai.onnx.ml", **filled)


def model_of(
    *nodes: NodeProto,
    initialisers: list[TensorProto] | None = None,
    shape: tuple[Any, ...] = (None, 1),
    inputs: tuple[str, ...] = ("X",),
    outputs: tuple[str, ...] = ("score",),
) -> ModelProto:
    """A model of these nodes, or of the tree."""
    graph = helper.make_graph(
        list(nodes) or [tree_node()],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in outputs],
        initialisers or [],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def good() -> bytes:
    """The model that every case departs from: admitted."""
    return model_of().SerializeToString()


def changed(change: Callable[[ModelProto], object]) -> bytes:
    """The good model after a change."""
    model = model_of()
    change(model)
    return model.SerializeToString()


def external(location: str | None = "weights.bin", **entries: str) -> TensorProto:
    """A tensor that says its data is elsewhere."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    if location is not None:
        entries = {"location": location, **entries}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(name: str, values: Any, dtype: Any = np.int64) -> TensorProto:
    """An initialiser."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def identity_graph() -> GraphProto:
    """A graph to hide in an attribute."""
    return helper.make_graph(
        [helper.make_node("Identity", ["X"], ["y"])],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
    )


def node_case(node: NodeProto, check: Check) -> Case:
    """A model of one node, to be refused."""
    return Case(model_of(node).SerializeToString(), check)


def slow(rounds: int) -> bytes:
    """The tree, and beside it so many rounds of a million sines for each row, which change nothing."""
    tree = tree_node()
    tree.output[0] = "tree"
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("MatMul", ["X", "zeros"], ["v0"]),
    ]
    nodes += [helper.make_node("Sin", [f"v{index}"], [f"v{index + 1}"]) for index in range(rounds)]
    nodes += [
        helper.make_node("ReduceSum", [f"v{rounds}", "axis"], ["nothing"]),
        helper.make_node("Add", ["tree", "nothing"], ["score"]),
    ]
    tensors = [constant("size", [3, 1_000_000]), constant("axis", [1])]
    return model_of(tree, *nodes, initialisers=tensors).SerializeToString()


def classifier(labels: dict[str, Any], zipmap: bool = False) -> bytes:
    """A linear classifier over three columns, which answers labels and probabilities."""
    n = len(next(iter(labels.values())))
    attributes = {"coefficients": [1.0] * 3 * n, "intercepts": [0.0] * n, "post_transform": "SOFTMAX", **labels}
    node = ml_node("LinearClassifier", attributes, ("label", "probabilities"))
    model = model_of(node, outputs=("probabilities",), shape=(None, n))
    kind = TensorProto.STRING if "classlabels_strings" in labels else TensorProto.INT64
    model.graph.output.insert(0, helper.make_tensor_value_info("label", kind, [None]))
    if zipmap:
        key = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        node = helper.make_node("ZipMap", ["probabilities"], ["output_probability"], domain="ai.onnx.ml", **ZIP)
        model.graph.node.append(node)
        del model.graph.output[1]
        model.graph.output.append(helper.make_value_info("output_probability", helper.make_sequence_type_proto(key)))
    return model.SerializeToString()


ZIP: Final = {"classlabels_int64s": [0, 1]}


DRAFTED: Final[dict[str, tuple[bytes, str, str]]] = {
    "binary": (classifier({"classlabels_ints": [0, 1]}), "binary", "column: 1"),
    "words": (classifier({"classlabels_strings": ["no", "yes"]}), "binary", 'hit: "yes"'),
    "multiclass": (classifier({"classlabels_ints": [7, 8, 9]}), "multiclass", 'labels: ["7", "8", "9"]'),
    "dictionaries": (classifier({"classlabels_ints": [0, 1]}, zipmap=True), "binary", "(ZipMap)"),
    "regression": (good(), "regression", "score: score"),
}
"""Good models of several kinds, with the task that a draft should guess, and what it should say."""
