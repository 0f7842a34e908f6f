"""Well-formed models that do not do what their document says, or take too long to do it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto, helper

from control.registry.admission.report import Check, Limits
from gateway.contract.document import ModelDocument
from tests.control.hostile_models import (
    DOCUMENT,
    GOLDEN,
    Case,
    constant,
    good,
    model_of,
    slow,
    tree_node,
)


def answer_cases() -> Iterator[tuple[str, Case]]:
    """The cases with their names."""
    yield from _semantic_cases()


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
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    yield "signature-two-rows-only", Case(fixed.SerializeToString(), Check.SIGNATURE)
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
