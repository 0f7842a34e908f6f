"""Hostile and broken models by name, made by scripts: what each is, and which check must refuse it."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

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
SCORES: Final = "the output of every model here"


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


def cases() -> Iterator[tuple[str, Case]]:
    """Every case with its name."""
    yield from _external_cases()
    yield from _format_cases()
    yield from _structure_cases()
    yield from _operator_cases()
    yield from _bomb_cases()
    yield from _tree_cases()
    yield from _tabular_cases()
    yield from _semantic_cases()


def _external_cases() -> Iterator[tuple[str, Case]]:
    places = {
        "dotdot": "../../etc/passwd",
        "mid-dotdot": "a/../../etc/passwd",
        "abs": "/etc/passwd",
        "same-directory-link": "link.bin",
        "fifo": "/tmp/fifo",
        "dev-zero": "/dev/zero",
        "procself-environ": "/proc/self/environ",
        "empty-location": "",
        "nul": "a\0b",
        "backslash": "..\\..\\secret",
        "url": "http://169.254.169.254/latest",
        "memaddr-marker": "*/_ORT_MEM_ADDR_/*",
    }
    for name, location in places.items():
        yield f"ext-{name}", _with_tensor(external(location))
    entries = {
        "neg-offset": {"offset": "-1"},
        "neg-length": {"length": "-1"},
        "petabyte": {"length": str(2**50)},
        "dunder-key": {"__class__": "x"},
        "offset-past-eof": {"offset": str(2**40)},
        "basepath-key": {"basepath": "/etc"},
    }
    for name, extra in entries.items():
        yield f"ext-{name}", _with_tensor(external(**extra))
    yield "ext-no-location", _with_tensor(external(None))
    unmarked = external()
    unmarked.data_location = TensorProto.DEFAULT
    yield "ext-entries-without-mark", _with_tensor(unmarked)
    inner = identity_graph()
    inner.initializer.append(external())
    yield "ext-in-subgraph", _outer(helper.make_node("If", ["c"], ["score"], then_branch=inner, else_branch=inner))
    yield "ext-in-attribute-tensor", _outer(helper.make_node("Constant", [], ["score"], value=external()))
    model = model_of()
    model.functions.append(FunctionProto(name="f", domain="d"))
    model.functions[0].node.append(helper.make_node("Constant", [], ["y"], value=external()))
    yield "ext-in-function", Case(model.SerializeToString(), Check.EXTERNAL_DATA)
    model = model_of()
    model.graph.sparse_initializer.add().values.CopyFrom(external())
    yield "ext-in-sparse", Case(model.SerializeToString(), Check.EXTERNAL_DATA)
    model = model_of()
    model.training_info.add().algorithm.initializer.append(external())
    yield "ext-in-training-info", Case(model.SerializeToString(), Check.EXTERNAL_DATA)


def _with_tensor(tensor: TensorProto) -> Case:
    return Case(changed(lambda model: model.graph.initializer.append(tensor)), Check.EXTERNAL_DATA)


def _outer(node: NodeProto, check: Check = Check.EXTERNAL_DATA) -> Case:
    return Case(model_of(node).SerializeToString(), check)


def _format_cases() -> Iterator[tuple[str, Case]]:
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../slip", b"\0" * 100_000)
    with tarfile.open(fileobj=tar, mode="w") as slip:
        slip.addfile(tarfile.TarInfo("../../slip"))
    formats = {f"pickle-{protocol}": pickle.dumps({"a": [1]}, protocol) for protocol in range(2, 6)}
    formats |= {
        "pickle-0": pickle.dumps({"a": [1]}, 0),
        "pickle-os-system": b"cos\nsystem\n(S'true'\ntR.",
        "joblib": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05numpy\x94",
        "zip": archive.getvalue(),
        "empty-zip": b"PK\x05\x06" + b"\0" * 18,
        "tar-slip": tar.getvalue(),
        "gzip-bomb": gzip.compress(b"\0" * 10_000_000),
        "bzip2": b"BZh91AY&SY",
        "xz": b"\xfd7zXZ\x00\x00\x04",
        "zstd": b"\x28\xb5\x2f\xfd\x00\x00",
        "ort": b"\x18\0\0\0ORTM" + b"\0" * 64,
        "tflite": b"\x1c\0\0\0TFL3" + b"\0" * 64,
        "keras-h5": b"\x89HDF\r\n\x1a\n" + b"\0" * 64,
        "numpy": b"\x93NUMPY\x01\x00",
        "png": b"\x89PNG\r\n\x1a\n",
        "elf": b"\x7fELF\x02\x01",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "json-proto": b'{"irVersion": "8", "graph": {}}',
        "text-proto": b'ir_version: 8\ngraph {\n  name: "g"\n}\n',
        "text-with-bom": b"\xef\xbb\xbfhello",
        "script": b"#!/bin/sh\necho\x00\n",
        "empty": b"",
        "zeros": b"\0" * 1_000_000,
        "one-letter": b"A",
    }
    for name, data in formats.items():
        yield f"format-{name}", Case(data, Check.FORMAT)
    whole = good()
    layers = {
        "one-byte": b"\x08",
        "two-models": whole + whole,
        "second-graph": whole + _field(7, model_of().graph.SerializeToString()),
        "second-producer": whole + _field(2, b"a") + _field(2, b"b"),
        "trailing-garbage": whole + b"\xff\xff\xff\xff",
        "trailing-zeros": whole + b"\0" * 8,
        "trailing-unknown-field": whole + _field(99, b"hidden"),
        "unknown-group": whole + b"\x0b\x0c",
        "number-without-end": whole + b"\xff" * 11,
        "graph-as-number": b"\x08\x0a\x38\x01",
        "no-graph": b"\x08\x0a",
        "length-past-the-end": b"\x08\x0a\x3a\xff\xff\xff\xff\x07",
    }
    for name, data in layers.items():
        yield f"wire-{name}", Case(data, Check.WIRE)
    yield "wire-graph-is-noise", Case(b"\x08\x0a" + _field(7, b"\xff" * 64), Check.PARSE)


def _field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    return _number(number << 3 | 2) + _number(len(data)) + data


def _number(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _number(value >> 7)


def _structure_cases() -> Iterator[tuple[str, Case]]:
    def renamed(name: str) -> Case:
        node = tree_node()
        node.output[0] = name
        return Case(model_of(node, outputs=(name,)).SerializeToString(), Check.NAMES)

    for name, text in {
        "slash": "a/b",
        "dotdot": "..",
        "backslash": "a\\b",
        "nul": "a\0b",
        "newline": "a\nb",
        "right-to-left": "a\u202eb",
        "zero-width": "a\u200bb",
        "not-composed": "e\u0301",
        "64-KiB": "a" * 65_536,
    }.items():
        yield f"name-{name}", renamed(text)
    yield "name-inner-nul", Case(changed(lambda m: setattr(m.graph.node[0], "name", "a\0")), Check.NAMES)
    yield "name-inner-64-KiB", Case(changed(lambda m: setattr(m.graph.node[0], "name", "a" * 65_536)), Check.NAMES)
    many = [f"y{index}" for index in range(10_000)]
    yield "outputs-10000", Case(model_of(tree_node(), outputs=("score", *many)).SerializeToString(), Check.LIMITS)
    yield "inputs-10000", Case(model_of(tree_node(), inputs=("X", *many)).SerializeToString(), Check.LIMITS)
    output = model_of().graph.output[0]
    twisted = good().replace(b"score", b"sc\xff\xfee")
    yield "name-not-utf-8", Case(twisted, Check.NAMES)
    yield "outputs-twice", Case(changed(lambda m: m.graph.output.append(output)), Check.SIGNATURE)
    yield "outputs-none", Case(changed(lambda m: m.graph.ClearField("output")), Check.SIGNATURE)
    yield "inputs-none", Case(changed(lambda m: m.graph.ClearField("input")), Check.SIGNATURE)
    weight = constant("w", [1.0])
    yield "initialiser-twice", Case(changed(lambda m: m.graph.initializer.extend([weight, weight])), Check.TENSORS)
    yield (
        "initialiser-is-input",
        Case(changed(lambda m: m.graph.initializer.append(constant("X", [[1.0] * 3], np.float32))), Check.SIGNATURE),
    )
    yield "ssa-violation", Case(model_of(tree_node(), tree_node()).SerializeToString(), Check.CHECKER)
    yield "undefined-input", _outer(helper.make_node("Identity", ["nowhere"], ["score"]), Check.CHECKER)
    cycle = [helper.make_node("Add", ["X", "b"], ["a"]), helper.make_node("Identity", ["a"], ["b"]), tree_node()]
    yield "cyclic-graph", Case(model_of(*cycle).SerializeToString(), Check.CHECKER)
    yield "type-contradicts", _outer(helper.make_node("Not", ["X"], ["score"]), Check.CHECKER)
    for name, version in {"999": 999, "0": 0, "negative": -1}.items():
        yield f"opset-{name}", Case(changed(_opset(version)), Check.OPERATORS)
        yield f"ir-{name}", Case(changed(_ir(version)), Check.OPERATORS)
    yield "opset-none", Case(changed(lambda m: m.ClearField("opset_import")), Check.CHECKER)
    yield "opset-twice", Case(changed(lambda m: m.opset_import.add(domain="", version=13)), Check.OPERATORS)


def _opset(version: int) -> Callable[[ModelProto], None]:
    return lambda model: setattr(model.opset_import[0], "version", version)


def _ir(version: int) -> Callable[[ModelProto], None]:
    return lambda model: setattr(model, "ir_version", version)


def _operator_cases() -> Iterator[tuple[str, Case]]:
    for name, node in {
        "custom-domain": helper.make_node("Anything", ["X"], ["score"], domain="evil"),
        "com-microsoft": helper.make_node("FusedMatMul", ["X", "X"], ["score"], domain="com.microsoft"),
        "pyop": helper.make_node("PyOp", ["X"], ["score"], domain="ai.onnx.contrib", module="os", class_name="system"),
        "epcontext": helper.make_node("EPContext", ["X"], ["score"], domain="com.microsoft", ep_cache_context=b"x"),
        "random-uniform": helper.make_node("RandomUniformLike", ["X"], ["score"]),
        "multinomial": helper.make_node("Multinomial", ["X"], ["score"]),
        "optional": helper.make_node("Optional", ["X"], ["score"]),
        "gradient": helper.make_node("Gradient", ["X"], ["score"], xs=["X"], y="score"),
    }.items():
        yield f"operator-{name}", _outer(node, Check.OPERATORS)
    doubles = [
        helper.make_node("Cast", ["X"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Acos", ["double"], ["angle"]),
        helper.make_node("Cast", ["angle"], ["score"], to=TensorProto.FLOAT),
    ]
    yield "operator-not-implemented", Case(model_of(*doubles, shape=(None, 3)).SerializeToString(), Check.LOAD)
    yield "operator-unknown", _outer(helper.make_node("Nonsense", ["X"], ["score"]), Check.CHECKER)
    yield "training-info", Case(changed(lambda m: m.training_info.add()), Check.OPERATORS)
    yield "configuration", Case(changed(lambda m: m.configuration.add(name="gpu")), Check.OPERATORS)
    yield "foreign-operator-set", Case(changed(lambda m: m.opset_import.add(domain="evil", version=1)), Check.OPERATORS)
    body = identity_graph()
    for operator in ("Loop", "Scan", "If", "SequenceMap"):
        yield (
            f"control-flow-{operator.lower()}",
            _outer(helper.make_node(operator, ["X"], ["score"], body=body), Check.SUBGRAPHS),
        )
    yield "graph-in-any-attribute", _outer(helper.make_node("Relu", ["X"], ["score"], body=body), Check.SUBGRAPHS)
    yield "graphs-in-any-attribute", _outer(helper.make_node("Relu", ["X"], ["score"], body=[body]), Check.SUBGRAPHS)
    for kind, make in {
        "sequence": helper.make_tensor_sequence_value_info("seq", TensorProto.FLOAT, None),
        "map": helper.make_value_info("m", helper.make_map_type_proto(7, _float_type())),
        "optional": helper.make_value_info("o", helper.make_optional_type_proto(_float_type())),
        "sparse": helper.make_value_info("s", helper.make_sparse_tensor_type_proto(1, [None, 3])),
    }.items():
        yield f"output-{kind}", Case(changed(lambda m, value=make: m.graph.output.append(value)), Check.SIGNATURE)
    labels = ml_node("ZipMap", {"classlabels_int64s": [0, 1, 2]})
    yield "zipmap", _outer(labels, Check.SIGNATURE)
    model = model_of()
    model.graph.quantization_annotation.add(tensor_name="X")
    yield "quantisation-annotation", Case(model.SerializeToString(), Check.TENSORS)
    model = model_of()
    model.graph.sparse_initializer.add().values.CopyFrom(constant("w", [1.0], np.float32))
    yield "sparse-initialiser", Case(model.SerializeToString(), Check.TENSORS)


def _float_type() -> Any:
    return helper.make_tensor_type_proto(TensorProto.FLOAT, [None, 3])


def _bomb_cases() -> Iterator[tuple[str, Case]]:
    def function(name: str, calls: str) -> FunctionProto:
        node = helper.make_node(calls, ["x"], ["y"], domain="d" if calls != "Identity" else "")
        return helper.make_function("d", name, ["x"], ["y"], [node], [helper.make_opsetid("", 21)])

    chain = [function(f"f{index}", f"f{index + 1}") for index in range(3000)] + [function("f3000", "Identity")]
    yield "function-chain-3000", Case(changed(lambda m: m.functions.extend(chain)), Check.LIMITS)
    yield "function-chain-40", Case(changed(lambda m: m.functions.extend(chain[:40])), Check.FUNCTIONS)
    ring = [function("f", "g"), function("g", "f")]
    yield "function-cycle", Case(changed(lambda m: m.functions.extend(ring)), Check.FUNCTIONS)
    deep = b""
    for _ in range(1000):
        deep = _field(1, _field(5, _field(6, deep)))  # a graph in an attribute of a node of a graph
    yield "nested-graphs-1000", Case(b"\x08\x0a" + _field(7, deep), Check.PARSE)
    nodes = [helper.make_node("Relu", [f"v{index}"], [f"v{index + 1}"]) for index in range(20_001)]
    yield "node-chain", Case(model_of(*nodes, tree_node()).SerializeToString(), Check.LIMITS)
    attributes = NodeProto(op_type="Relu")
    attributes.attribute.extend(helper.make_attribute("alpha", 1.0) for _ in range(20_000))
    few = Limits(messages=20_000, attribute_values=20_000)
    yield "attributes-too-many", Case(model_of(attributes).SerializeToString(), Check.LIMITS, limits=few)
    strings = NodeProto(op_type="Relu", attribute=[helper.make_attribute("s", [b""] * 20_001)])
    yield "strings-too-many", Case(model_of(strings).SerializeToString(), Check.LIMITS, limits=few)
    yield "doc-string-2-MiB", Case(changed(lambda m: setattr(m, "doc_string", "a" * (2 << 20))), Check.LIMITS)
    yield "metadata-100000", Case(changed(_metadata), Check.LIMITS)
    yield "graph-metadata-2000", Case(changed(_graph_metadata), Check.LIMITS)
    for name, dims in {"overflow": [2**32, 2**32], "negative": [-1, -1], "deep": [1] * 9, "huge": [2**40]}.items():
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 4)
        yield f"dims-{name}", Case(changed(_append(tensor)), Check.TENSORS)
    for name, raw in {"too-short": b"\0" * 12, "too-long": b"\0" * 20, "none": b""}.items():
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=raw)
        yield f"raw-data-{name}", Case(changed(_append(tensor)), Check.TENSORS)
    odd = {
        "unknown-type": TensorProto(name="w", data_type=99, dims=[1], raw_data=b"\0" * 4),
        "complex": TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=[1], raw_data=b"\0" * 8),
        "two-kinds-of-data": TensorProto(name="w", data_type=1, dims=[1], raw_data=b"\0" * 4, float_data=[1.0]),
        "wrong-list": TensorProto(name="w", data_type=1, dims=[1], int64_data=[1]),
        "raw-strings": TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], raw_data=b"a"),
        "segment": TensorProto(name="w", data_type=1, dims=[1], float_data=[1.0], segment=TensorProto.Segment(end=1)),
    }
    for name, tensor in odd.items():
        yield f"tensor-{name}", Case(changed(_append(tensor)), Check.TENSORS)
    yield from _expanding_cases()


def _append(tensor: TensorProto) -> Callable[[ModelProto], None]:
    return lambda model: model.graph.initializer.append(tensor)


def _metadata(model: ModelProto) -> None:
    for index in range(100_000):
        model.metadata_props.add(key=f"k{index}", value="v")


def _graph_metadata(model: ModelProto) -> None:
    for index in range(2000):
        model.graph.metadata_props.add(key=f"k{index}", value="v")


def _expanding_cases() -> Iterator[tuple[str, Case]]:
    """A few hundred bytes that want gigabytes when they are run: memory is bounded then too."""
    end = [
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Mul", ["X", "most"], ["many"]),
        helper.make_node("ReduceSum", ["many", "axis"], ["score"]),
    ]
    shapes = {
        "constant-of-shape-4-GiB": (helper.make_node("ConstantOfShape", ["size"], ["big"]), [2**30]),
        "constant-of-shape-4-EiB": (helper.make_node("ConstantOfShape", ["size"], ["big"]), [2**60]),
        "expand-2-to-40": (helper.make_node("Expand", ["one", "size"], ["big"]), [2**40]),
        "tile-2-to-40": (helper.make_node("Tile", ["one", "size"], ["big"]), [2**40]),
        "pad-2-to-40": (helper.make_node("Pad", ["one", "size"], ["big"]), [0, 2**40]),
        "resize-2-to-40": (helper.make_node("Resize", ["one", "", "", "size"], ["big"]), [2**40]),
    }
    for name, (node, size) in shapes.items():
        tensors = [constant("size", size), constant("one", [1.0], np.float32), constant("axis", [1])]
        model = model_of(node, *end, initialisers=tensors)
        yield f"bomb-{name}", Case(model.SerializeToString(), Check.RUN)
    counts = [constant("start", 0), constant("limit", 2**62), constant("delta", 1), constant("axis", [1])]
    nodes = [
        helper.make_node("Range", ["start", "limit", "delta"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["big"], to=TensorProto.FLOAT),
    ]
    yield "bomb-range-2-to-62", Case(model_of(*nodes, *end, initialisers=counts).SerializeToString(), Check.RUN)


def _tree_cases() -> Iterator[tuple[str, Case]]:
    changes: dict[str, dict[str, Any]] = {
        "oob-target-id": {"target_ids": [0, 7]},
        "neg-target-id": {"target_ids": [0, -1]},
        "neg-featureid": {"nodes_featureids": [-1, 0, 0]},
        "featureid-past-width": {"nodes_featureids": [3, 0, 0]},
        "featureid-2-to-32": {"nodes_featureids": [2**32, 0, 0]},
        "self-loop": {"nodes_truenodeids": [0, 0, 0]},
        "cycle": {
            "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
            "nodes_truenodeids": [1, 0, 0],
            "nodes_falsenodeids": [2, 2, 0],
        },
        "child-missing": {"nodes_truenodeids": [9, 0, 0]},
        "neg-child": {"nodes_truenodeids": [-1, 0, 0]},
        "child-2-to-40": {"nodes_truenodeids": [2**40, 0, 0]},
        "node-twice": {"nodes_nodeids": [0, 1, 1]},
        "unreached": {"nodes_falsenodeids": [1, 0, 0]},
        "neg-tree": {"nodes_treeids": [-1, -1, -1]},
        "mode-unknown": {"nodes_modes": ["BRANCH_XOR", "LEAF", "LEAF"]},
        "base-values-size": {"base_values": [0.0, 0.0]},
        "no-targets": {"n_targets": 0},
        "many-targets": {"n_targets": 2**31},
        "weights-of-missing-node": {"target_nodeids": [1, 9]},
        "no-nodes": {name: [] for name in TREE if name.startswith("nodes_")},
        "values-twice": {"nodes_values_as_tensor": constant("v", [0.5, 0.0, 0.0], np.float32)},
        "no-leaf": {"nodes_modes": ["BRANCH_LEQ"] * 3, "nodes_falsenodeids": [2, 2, 1], "nodes_truenodeids": [1, 1, 2]},
    }
    changes |= {
        f"short-{name}": {name: value[:-1]}
        for name, value in TREE.items()
        if isinstance(value, list) and len(value) > 1
    }
    for name, change in changes.items():
        yield f"tree-{name}", _outer(tree_node(**change), Check.TABULAR)
    deep = 2000
    yield "tree-2000-deep", _outer(_chain_of_branches(deep), Check.TABULAR)
    node = tree_node()
    node.attribute.append(node.attribute[0])
    yield "tree-attribute-twice", _outer(node, Check.TABULAR)
    limits = Limits(tree_nodes=2)
    yield "tree-too-many-nodes", Case(good(), Check.TABULAR, limits=limits)
    yield from _classifier_cases()
    yield from _newer_tree_cases()


def _chain_of_branches(depth: int) -> NodeProto:
    n = 2 * depth + 1
    inner = range(depth)
    return tree_node(
        nodes_treeids=[0] * n,
        nodes_nodeids=[*range(n)],
        nodes_featureids=[0] * n,
        nodes_modes=["BRANCH_LEQ"] * depth + ["LEAF"] * (depth + 1),
        nodes_values=[0.5] * n,
        nodes_truenodeids=[index + 1 for index in inner] + [0] * (depth + 1),
        nodes_falsenodeids=[depth + 1 + index for index in inner] + [0] * (depth + 1),
        nodes_hitrates=None,
        nodes_missing_value_tracks_true=None,
        target_nodeids=[depth, depth + 1],
    )


def _classifier_cases() -> Iterator[tuple[str, Case]]:
    shared = {name: value for name, value in TREE.items() if name.startswith("nodes_")}
    weights = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1], "class_weights": [1.0, 1.0]}
    for name, change in {
        "class-id-past-labels": {"class_ids": [0, 2], "classlabels_int64s": [0, 1]},
        "no-labels": {},
        "short-class-weights": {"class_weights": [1.0], "classlabels_int64s": [0, 1]},
    }.items():
        attributes = {**shared, **weights, **change}
        node = ml_node("TreeEnsembleClassifier", attributes, ("label", "score"))
        yield f"tree-classifier-{name}", _outer(node, Check.TABULAR)


def _newer_tree_cases() -> Iterator[tuple[str, Case]]:
    right: dict[str, Any] = {
        "n_targets": 1,
        "nodes_featureids": [0],
        "nodes_splits": constant("s", [0.5], np.float32),
        "nodes_modes": constant("m", [0], np.uint8),
        "nodes_truenodeids": [0],
        "nodes_falsenodeids": [1],
        "nodes_trueleafs": [1],
        "nodes_falseleafs": [1],
        "leaf_targetids": [0, 0],
        "leaf_weights": constant("w", [0.25, 0.75], np.float32),
        "tree_roots": [0],
    }
    for name, change in {
        "leaf-weights-scalar": {"leaf_weights": constant("w", 1.0, np.float32)},
        "leaf-weights-short": {"leaf_weights": constant("w", [0.25], np.float32)},
        "leaf-missing": {"nodes_falsenodeids": [5]},
        "neg-leaf": {"nodes_falsenodeids": [-1]},
        "target-past-targets": {"leaf_targetids": [0, 3]},
        "root-missing": {"tree_roots": [4]},
        "mode-unknown": {"nodes_modes": constant("m", [9], np.uint8)},
        "cycle": {"nodes_trueleafs": [0], "nodes_truenodeids": [0]},
        "featureid-past-width": {"nodes_featureids": [3]},
        "short-leafs": {"nodes_trueleafs": []},
    }.items():
        node = ml_node("TreeEnsemble", {**right, **change})
        model = model_of(node)
        model.opset_import[1].version = 5
        yield f"tree-newer-{name}", Case(model.SerializeToString(), Check.TABULAR)


def _tabular_cases() -> Iterator[tuple[str, Case]]:
    svm: dict[str, Any] = {"rho": [0.0], "kernel_type": "RBF", "kernel_params": [1.0, 0.0, 3.0]}
    per_class = {"classlabels_ints": [0, 1], "vectors_per_class": [1, 1], "support_vectors": [0.0] * 6, **svm}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "linear-coefficients": ("LinearRegressor", {"coefficients": [1.0, 2.0], "intercepts": [0.0]}),
        "linear-no-coefficients": ("LinearRegressor", {"intercepts": [0.0]}),
        "linear-targets": ("LinearRegressor", {"coefficients": [1.0] * 3, "targets": 2**31}),
        "linear-classifier": ("LinearClassifier", {"coefficients": [1.0] * 5, "classlabels_ints": [0, 1]}),
        "linear-classifier-intercepts": (
            "LinearClassifier",
            {"coefficients": [1.0] * 6, "intercepts": [0.0] * 3, "classlabels_ints": [0, 1]},
        ),
        "svm-oob-coefficients": ("SVMRegressor", {"n_supports": 2, "coefficients": [1.0], **svm}),
        "svm-vectors": (
            "SVMRegressor",
            {"n_supports": 2, "coefficients": [1.0] * 2, "support_vectors": [0.0] * 5, **svm},
        ),
        "svm-negative": ("SVMRegressor", {"n_supports": -1, "coefficients": [1.0], **svm}),
        "svm-classifier-coefficients": ("SVMClassifier", {"coefficients": [1.0], **per_class}),
        "svm-classifier-negative": (
            "SVMClassifier",
            {**per_class, "coefficients": [1.0] * 2, "vectors_per_class": [3, -1]},
        ),
        "svm-classifier-rho": ("SVMClassifier", {**per_class, "coefficients": [1.0] * 2, "rho": [0.0] * 3}),
        "svm-classifier-prob": ("SVMClassifier", {**per_class, "coefficients": [1.0] * 2, "prob_a": [0.0] * 3}),
        "svm-kernel": ("SVMClassifier", {**per_class, "coefficients": [1.0] * 2, "kernel_type": "MAGIC"}),
        "label-encoder": ("LabelEncoder", {"keys_floats": [0.0, 1.0], "values_floats": [1.0]}),
        "label-encoder-two-keys": (
            "LabelEncoder",
            {"keys_floats": [0.0], "keys_int64s": [0], "values_floats": [1.0]},
        ),
        "one-hot-none": ("OneHotEncoder", {}),
        "one-hot-both": ("OneHotEncoder", {"cats_int64s": [1], "cats_strings": ["a"]}),
        "one-hot-many": ("OneHotEncoder", {"cats_int64s": [*range(1_000_001)]}),
        "dict-vectorizer": ("DictVectorizer", {"int64_vocabulary": [1]}),
        "scaler": ("Scaler", {"offset": [0.0] * 3, "scale": [1.0] * 2}),
        "scaler-width": ("Scaler", {"offset": [0.0] * 2, "scale": [1.0] * 2}),
        "imputer-none": ("Imputer", {}),
        "imputer-width": ("Imputer", {"imputed_value_floats": [0.0] * 2}),
        "normalizer": ("Normalizer", {"norm": "L9"}),
        "feature-vectorizer": ("FeatureVectorizer", {"inputdimensions": [-1]}),
        "feature-vectorizer-wide": ("FeatureVectorizer", {"inputdimensions": [2**40]}),
        "category-mapper": ("CategoryMapper", {"cats_int64s": [1, 2], "cats_strings": ["a"]}),
    }
    for name, (operator, attributes) in found.items():
        yield f"tabular-{name}", _outer(ml_node(operator, attributes), Check.TABULAR)


def _semantic_cases() -> Iterator[tuple[str, Case]]:
    tree = good()
    yield "golden-off-by-a-thousandth", Case(tree, Check.GOLDEN_ROWS, GOLDEN.replace(b"0.75", b"0.751"))
    for name, golden in {
        "empty": b"",
        "header-only": b"a,b,c,expected\n",
        "column-missing": b"a,b,expected\n0,0,0.25\n",
        "not-a-number": GOLDEN.replace(b"0.75", b"lots"),
        "not-finite": GOLDEN.replace(b"0.75", b"inf"),
        "not-text": b"\xff\xfe\x00",
        "ragged": GOLDEN + b"1,2\n",
        "too-many-rows": GOLDEN + b"0,0,0,0.25\n" * 1000,
    }.items():
        yield f"golden-{name}", Case(tree, Check.GOLDEN_FILE, golden)
    yield "too-large", Case(tree, Check.SIZE, limits=Limits(model_bytes=100))
    yield "golden-too-large", Case(tree, Check.GOLDEN_FILE, limits=Limits(golden_bytes=10))
    yield from _signature_cases()
    yield from _answer_cases()


def _signature_cases() -> Iterator[tuple[str, Case]]:
    tree = good()
    for name, changes in {
        "score-missing": {"output": {"score": "other"}},
        "input-missing": {"inputs": [{"request": "a", "type": "float32", "feeds": "Z"}]},
        "too-few-columns": {"inputs": [{"request": "a", "type": "float32", "feeds": "X"}]},
        "other-type": {"inputs": [{"request": name, "type": "string", "feeds": "X"} for name in "abc"]},
    }.items():
        document = ModelDocument.model_validate({**DOCUMENT.model_dump(mode="json"), **changes})
        yield f"signature-{name}", Case(tree, Check.SIGNATURE, document=document)
    fixed = model_of()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    yield "signature-one-row-only", Case(fixed.SerializeToString(), Check.SIGNATURE)
    cast = helper.make_node("Cast", ["X"], ["score"], to=TensorProto.STRING)
    text = model_of(cast, shape=(None, 3))
    text.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    yield "signature-score-is-text", Case(text.SerializeToString(), Check.SIGNATURE)
    half = helper.make_node("Cast", ["X"], ["score"], to=TensorProto.FLOAT16)
    short = model_of(half, shape=(None, 3))
    short.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    yield "signature-score-is-float16", Case(short.SerializeToString(), Check.SIGNATURE)


def _answer_cases() -> Iterator[tuple[str, Case]]:
    first = helper.make_node("Slice", ["X", "zero", "one", "one"], ["first"])
    ends = [constant("zero", [0]), constant("one", [1]), constant("minus", [[-1.0]], np.float32)]

    def made(*nodes: NodeProto, check: Check, limits: Limits | None = None) -> Case:
        return Case(model_of(*nodes, initialisers=ends).SerializeToString(), check, limits=limits or Limits())

    log = [helper.make_node("Add", ["first", "minus"], ["low"]), helper.make_node("Log", ["low"], ["score"])]
    yield "answer-nan", made(first, *log, check=Check.OUTPUT)
    found = [
        helper.make_node("NonZero", ["X"], ["where"]),
        helper.make_node("Cast", ["where"], ["score"], to=TensorProto.FLOAT),
    ]
    yield "answer-shape-depends-on-input", Case(model_of(*found, shape=(None, None)).SerializeToString(), Check.OUTPUT)
    yield (
        "answer-three-columns",
        Case(model_of(helper.make_node("Relu", ["X"], ["score"]), shape=(None, 3)).SerializeToString(), Check.OUTPUT),
    )
    yield (
        "answer-one-for-all-rows",
        Case(model_of(helper.make_node("ReduceMax", ["X"], ["score"]), shape=(1, 1)).SerializeToString(), Check.OUTPUT),
    )
    # The lowest value of the batch shifts every row's score: right on the golden rows, wrong in other company.
    batch = [
        helper.make_node("ReduceMax", ["tree", "zero"], ["most"], keepdims=1),
        helper.make_node("Sub", ["tree", "most"], ["off"]),
        helper.make_node("Add", ["off", "lift"], ["score"]),
    ]
    node = tree_node()
    node.output[0] = "tree"
    lift = constant("lift", [[0.75]], np.float32)
    model = model_of(node, *batch, initialisers=[constant("zero", [0]), lift])
    yield "answer-depends-on-other-rows", Case(model.SerializeToString(), Check.ROWS_APART)
    yield (
        "answer-fails-on-golden-rows",
        made(first, helper.make_node("Reshape", ["first", "five"], ["score"]), check=Check.RUN)._replace(
            model=_reshaped()
        ),
    )
    yield "answer-slow", Case(slow(20), Check.LATENCY, limits=Limits(run_ms=1))
    yield "answer-takes-all-time", Case(slow(2000), Check.TIME, limits=Limits(cpu_s=1))


def _reshaped() -> bytes:
    node = helper.make_node("Reshape", ["X", "five"], ["score"])
    return model_of(node, initialisers=[constant("five", [5, 7])], shape=(5, 7)).SerializeToString()


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
    "dictionaries": (classifier({"classlabels_ints": [0, 1]}, zipmap=True), "binary", "'zipmap': False"),
    "regression": (good(), "regression", "score: score"),
}
"""Good models of several kinds, with the task that a draft should guess, and what it should say."""

CORPUS: Final = dict(cases())
"""The corpus."""
