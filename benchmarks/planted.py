"""Versions that are bad in one way each, on a chosen share of the subscribers, and one that is not."""

from __future__ import annotations

from typing import Final, NamedTuple

import onnx
from onnx import TensorProto, helper

from gateway.contract.document import ModelDocument
from gateway.contract.schema import FeatureView

MINUTES: Final = 100
"""Subscribers have 0 to 99 minutes, each value equally often."""
HIT_FROM: Final = 90
"""Minutes from which a sound version decides `call`: one subscriber in ten."""
VIEW: Final = FeatureView.model_validate(
    {"name": "usage", "entity": "subscriber", "features": [{"name": "minutes", "type": "float32"}]}
)
GOLDEN: Final = (-2.0, -3.5)
"""Minutes on which every version is as it should be: nobody has them."""
SIDE: Final = 700
"""Of matrices of which each product takes a core some ten milliseconds or more."""
PRODUCTS: Final = 300
"""More than any caller waits for; between two of them a run can be ended."""


class Fault(NamedTuple):
    """What is wrong with a version."""

    kind: str
    """`raises`, `nan`, `slow` or `hits`; empty for nothing."""
    percent: int = 100
    """Of the subscribers on which it shows; for `hits`, how many more are decided to be called."""

    @property
    def hard(self) -> bool:
        """Whether the version fails on everybody."""
        return self.percent == MINUTES

    @property
    def name(self) -> str:
        """In the report."""
        return f"{self.kind} {self.percent} %" if self.kind else "none"


SOUND: Final = Fault("", 0)


def document(model: str, number: int) -> ModelDocument:
    """Of one version: the number makes it another one, though its graph be the same."""
    return ModelDocument.model_validate(
        {
            "name": model,
            "task": "regression",
            "purpose": f"Says the minutes of a subscriber, for the benchmark; number {number}.",
            "owner": {"person": "benchmark"},
            "entities": ["subscriber"],
            "views": {VIEW.name: VIEW.digest()},
            "inputs": [{"view": VIEW.name, "feature": "minutes", "feeds": "x"}],
            "output": {"score": "y"},
            "decision": {"kind": "threshold", "threshold": HIT_FROM - 0.5, "hit": "call", "otherwise": "leave"},
        }
    )


def graph(fault: Fault) -> bytes:
    """An ONNX file whose score is the minutes, but for the fault."""
    border = MINUTES - fault.percent - 0.5
    floats = {"border": [border], "least": [-0.5], "one": [1.0], "none": [0.0], "more": [0.0], "table": [0.0]}
    whole = {"large": [SIDE, SIDE], "small": [1, 1]}
    nodes = {
        "": [],
        "hits": [],
        "raises": [
            helper.make_node("Sub", ["x", "border"], ["beyond"]),
            helper.make_node("Add", ["beyond", "one"], ["raised"]),
            helper.make_node("Max", ["raised", "least"], ["place"]),
            helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["added"]),
        ],
        "nan": [
            helper.make_node("Sub", ["border", "x"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),
            helper.make_node("Mul", ["root", "none"], ["added"]),
        ],
        "slow": [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "border"], ["beyond"]),
            helper.make_node("Where", ["beyond", "large", "small"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["product0"]),
            *(helper.make_node("MatMul", [f"product{i}", f"product{i}"], [f"product{i + 1}"]) for i in range(PRODUCTS)),
            helper.make_node("ReduceMax", [f"product{PRODUCTS}"], ["added"], keepdims=0),
        ],
    }[fault.kind]
    if fault.kind == "hits":
        floats["more"] = [float(fault.percent)]
    if not nodes:
        nodes = [helper.make_node("Mul", ["x", "none"], ["added"])]
    nodes += [helper.make_node("Add", ["x", "added"], ["sum"]), helper.make_node("Add", ["sum", "more"], ["y"])]
    used = {name for node in nodes for name in node.input}
    tensors = [
        helper.make_tensor(name, kind, [len(values)], values)
        for kind, named in ((TensorProto.FLOAT, floats), (TensorProto.INT64, whole))
        for name, values in named.items()
        if name in used
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "planted", ends[:1], ends[1:], tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def golden(fault: Fault) -> str:
    """Golden rows, CSV."""
    more = fault.percent if fault.kind == "hits" else 0
    return "\n".join(["usage.minutes,expected", *(f"{x},{x + more}" for x in GOLDEN)]) + "\n"
