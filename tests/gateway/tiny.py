"""The smallest things that are real: a view, a model that adds its version to a feature, a table that routes to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from control.v1 import data_plane_pb2 as pb
from gateway.contract.document import ModelDocument
from gateway.contract.row import RowCodec
from gateway.contract.schema import FeatureView
from gateway.features.writer import Batch

HISTORY: Final = "history-one"
MODEL: Final = "minutes"
VIEW: Final = FeatureView.model_validate(
    {
        "name": "usage",
        "entity": "subscriber",
        "features": [
            {"name": "minutes", "type": "float32", "default": 5.0},
            {"name": "batch", "type": "int64", "default": 0},
        ],
    }
)
CODEC: Final = RowCodec(VIEW)
DOCUMENT: Final = ModelDocument.model_validate(
    {
        "name": MODEL,
        "task": "regression",
        "purpose": "Adds the number of its version to the minutes of a subscriber.",
        "owner": {"person": "ana"},
        "entities": ["subscriber"],
        "views": {"usage": VIEW.digest()},
        "inputs": [{"view": "usage", "feature": "minutes", "feeds": "x"}],
        "output": {"score": "y"},
    }
)


class Version(NamedTuple):
    """A version and its artifacts."""

    number: int
    model: bytes
    golden: bytes

    def served(self, feature_sequence: int = 0) -> pb.ServedVersion:
        """As a route table names it."""
        return pb.ServedVersion(
            version=self.number,
            digest=sha256(f"manifest {self.number}".encode()),
            model_sha256=sha256(self.model),
            golden_sha256=sha256(self.golden),
            document_json=DOCUMENT.canonical(),
            feature_sequence=feature_sequence,
        )

    def artifacts(self) -> Mapping[str, bytes]:
        """By digest."""
        return {sha256(content): content for content in (self.model, self.golden)}


def sha256(content: bytes) -> str:
    """Its digest."""
    return hashlib.sha256(content).hexdigest()


SPINS_AT: Final = 20.0
SPIN: Final = 7_000
"""Rows and columns of a matrix whose square takes a core some ten seconds or more."""
BREAKS_FROM: Final = 16
"""The minutes from which a version that breaks does."""


GROWN: Final = 200 << 20
"""Bytes that a version takes that breaks by growing; the runtime keeps them for its next runs."""


@cache
def version(number: int, breaks: str = "") -> Version:
    """The version whose score is the minutes plus its number.

    One that breaks by "raising", "nan" or "growing" does so for subscribers with BREAKS_FROM minutes or more; by
    "spinning", for those with exactly SPINS_AT, in a single product of matrices, which nothing can end but the process.
    """
    shape = ["n", 1]
    floats = {
        "addend": [float(number)],
        "nothing": [0.0] * BREAKS_FROM,
        "limit": [BREAKS_FROM - 0.5],
        "zero": [0.0],
        "border": [SPINS_AT],
    }
    trap = {
        "": [helper.make_node("Identity", ["zero"], ["added"])],
        "raising": [
            helper.make_node("Cast", ["x"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["nothing", "place"], ["added"]),
        ],
        "nan": [
            helper.make_node("Sub", ["limit", "x"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),
            helper.make_node("Mul", ["root", "zero"], ["added"]),
        ],
        "growing": [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "limit"], ["breaks"]),
            helper.make_node("Where", ["breaks", "grown", "one"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["filled"]),
            helper.make_node("ReduceMax", ["filled"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "zero"], ["added"]),
        ],
        "spinning": [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Equal", ["most", "border"], ["breaks"]),
            helper.make_node("Where", ["breaks", "huge", "small"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["matrix"]),
            helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
            helper.make_node("ReduceSum", ["product"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "zero"], ["added"]),
        ],
    }
    whole = {"huge": [SPIN, SPIN], "small": [1, 1], "grown": [GROWN // 4], "one": [1]}
    nodes = [
        *trap[breaks],
        helper.make_node("Add", ["x", "addend"], ["sum"]),
        helper.make_node("Add", ["sum", "added"], ["y"]),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)
            for name, values in floats.items()
            if name in used
        ]
        + [
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
            for name, values in whole.items()
            if name in used
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    golden = f"usage.minutes,expected\n1,{number + 1}\n2.5,{number + 2.5}\n"
    return Version(number, model.SerializeToString(), golden.encode())


def canary(challenger: Version, control: Version, weight_bps: int, **more: Any) -> pb.RouteTable:
    """A table of revision 10 that has a challenger beside the control, which is the champion."""
    route = pb.ModelRoute(
        model=MODEL,
        champion=control.served(),
        canary=pb.Canary(
            **{"rollout_id": 9, "step": 1, "salt": b"salt", **more},
            challenger=challenger.served(),
            control=control.served(),
            weight_bps=weight_bps,
        ),
    )
    views = [pb.PinnedView(hash=VIEW.digest(), definition_json=VIEW.canonical())]
    return pb.RouteTable(format=1, history_id=HISTORY, revision=10, models=[route], views=views)


def table(
    revision: int, served: Version | None = None, history_id: str = HISTORY, feature_sequence: int = 0
) -> pb.RouteTable:
    """A table that routes the model to the version, or names no model."""
    models = [pb.ModelRoute(model=MODEL, champion=served.served(feature_sequence))] if served else []
    views = [pb.PinnedView(hash=VIEW.digest(), definition_json=VIEW.canonical())] if served else []
    return pb.RouteTable(format=1, history_id=history_id, revision=revision, models=models, views=views)


def batch(sequence: int, keys: Sequence[str], event_ns: int = 1_000, minutes: float = 10.0) -> Batch:
    """A batch whose rows say the same: minutes, and the number of their batch."""
    columns: dict[str, Any] = {"minutes": np.full(len(keys), minutes), "batch": np.full(len(keys), sequence)}
    times = np.full(len(keys), event_ns)
    return Batch(sequence, VIEW.digest(), VIEW.canonical(), {}, keys, CODEC.encode(times, times, columns, {}))
