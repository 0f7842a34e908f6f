"""Hostile graphs: operators that must not run, and bombs: little that becomes much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from control.registry.admission.report import Check, Limits
from tests.control.hostile_files import field
from tests.control.hostile_models import (
    Case,
    changed,
    constant,
    identity_graph,
    ml_node,
    model_of,
    node_case,
    tree_node,
)


def graph_cases() -> Iterator[tuple[str, Case]]:
    """The cases with their names."""
    yield from _operator_cases()
    yield from _bomb_cases()


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
        yield f"operator-{name}", node_case(node, Check.OPERATORS)
    doubles = [
        helper.make_node("Cast", ["X"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Acos", ["double"], ["angle"]),
        helper.make_node("Cast", ["angle"], ["score"], to=TensorProto.FLOAT),
    ]
    yield "operator-not-implemented", Case(model_of(*doubles, shape=(None, 3)).SerializeToString(), Check.LOAD)
    yield "operator-unknown", node_case(helper.make_node("Nonsense", ["X"], ["score"]), Check.CHECKER)
    yield "training-info", Case(changed(lambda m: m.training_info.add()), Check.OPERATORS)
    yield "configuration", Case(changed(lambda m: m.configuration.add(name="gpu")), Check.OPERATORS)
    yield "foreign-operator-set", Case(changed(lambda m: m.opset_import.add(domain="evil", version=1)), Check.OPERATORS)
    body = identity_graph()
    for operator in ("Loop", "Scan", "If", "SequenceMap"):
        yield (
            f"control-flow-{operator.lower()}",
            node_case(helper.make_node(operator, ["X"], ["score"], body=body), Check.SUBGRAPHS),
        )
    yield "graph-in-any-attribute", node_case(helper.make_node("Relu", ["X"], ["score"], body=body), Check.SUBGRAPHS)
    yield "graphs-in-any-attribute", node_case(helper.make_node("Relu", ["X"], ["score"], body=[body]), Check.SUBGRAPHS)
    for kind, make in {
        "sequence": helper.make_tensor_sequence_value_info("seq", TensorProto.FLOAT, None),
        "map": helper.make_value_info("m", helper.make_map_type_proto(7, _float_type())),
        "optional": helper.make_value_info("o", helper.make_optional_type_proto(_float_type())),
        "sparse": helper.make_value_info("s", helper.make_sparse_tensor_type_proto(1, [None, 3])),
    }.items():
        yield f"output-{kind}", Case(changed(lambda m, value=make: m.graph.output.append(value)), Check.SIGNATURE)
    labels = ml_node("ZipMap", {"classlabels_int64s": [0, 1, 2]})
    yield "zipmap", node_case(labels, Check.SIGNATURE)
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
        deep = field(1, field(5, field(6, deep)))  # a graph in an attribute of a node of a graph
    yield "nested-graphs-1000", Case(b"\x08\x0a" + field(7, deep), Check.PARSE)
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
