"""A gateway's data directory with a model of every kind: each task, no entity, two entities, one that can fail."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from control.v1 import data_plane_pb2 as pb
from gateway.contract.document import ModelDocument
from gateway.contract.row import RowCodec
from gateway.contract.schema import FeatureView
from gateway.features.writer import Batch, OnlineWriter

HISTORY: Final = "zoo"
NOW_NS: Final = 4_000_000_000_000_000_000
"""Event time of rows that are fresh for ever."""
OLD_NS: Final = 1_000_000_000
USAGE: Final = FeatureView.model_validate(
    {
        "name": "usage",
        "entity": "subscriber",
        "features": [
            {"name": "minutes", "type": "float32", "default": 1.5, "ttl_s": 3600},
            {"name": "calls", "type": "int64", "default": 0},
            {"name": "state", "type": "string", "default": "other"},
            {"name": "roaming", "type": "bool", "missing": "reject", "ttl_s": 3600},
        ],
    }
)
OFFERS: Final = FeatureView.model_validate(
    {"name": "offers", "entity": "offer", "features": [{"name": "price", "type": "float32", "default": 7.0}]}
)
STATES: Final = ("ny", "tx", "other")
WEIGHTS: Final = {"ny": 1.0, "tx": 2.0, "other": 4.0}
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


class Kind(NamedTuple):
    """One model of the zoo."""

    document: ModelDocument
    model: bytes
    golden: str


def place(data: Path) -> dict[str, Kind]:
    """Fills a gateway's data directory and returns the models by name."""
    _fill_features(data / "features")
    kinds = {kind.document.name: kind for kind in (_churn(), _plan(), _offer(), _fraud(), _revenue(), _strict())}
    artifacts = data / "artifacts"
    artifacts.mkdir(parents=True)
    for kind in kinds.values():
        for content in (kind.model, kind.golden.encode()):
            (artifacts / hashlib.sha256(content).hexdigest()).write_bytes(content)
    table = pb.RouteTable(
        format=1,
        history_id=HISTORY,
        revision=7,
        models=[pb.ModelRoute(model=name, champion=_served(kind)) for name, kind in kinds.items()],
        views=[pb.PinnedView(hash=view.digest(), definition_json=view.canonical()) for view in (USAGE, OFFERS)],
    )
    (data / "routes.pb").write_bytes(table.SerializeToString())
    return kinds


def churn_score(minutes: float, calls: int, state: str) -> float:
    """What the churn model answers."""
    return float(1 / (1 + np.exp(-np.float32(minutes * 0.1 + calls - WEIGHTS[state]))))


def _fill_features(directory: Path) -> None:
    writer = OnlineWriter(directory, 1 << 26)
    codec = RowCodec(USAGE)
    keys = [f"S{i}" for i in range(300)] + ["stale", "gone", "norow"]
    columns: dict[str, Any] = {
        "minutes": np.arange(len(keys), dtype=np.float32),
        "calls": np.arange(len(keys)) % 5,
        "state": np.arange(len(keys)) % 2,
        "roaming": np.arange(len(keys)) % 2 == 0,
    }
    times = np.array([OLD_NS if key == "stale" else NOW_NS for key in keys])
    nulls = {name: [key == "gone" for key in keys] for name in columns}
    additions = {"state": (0, STATES)}
    rows = codec.encode(times, times, columns, nulls)
    writer.apply(Batch(1, USAGE.digest(), USAGE.canonical(), additions, keys, rows), HISTORY)
    price = RowCodec(OFFERS).encode([NOW_NS] * 2, [NOW_NS] * 2, {"price": np.array([2.0, 3.0])}, {})
    writer.apply(Batch(2, OFFERS.digest(), OFFERS.canonical(), {}, ["O1", "O2"], price), HISTORY)
    writer.close()


def _served(kind: Kind) -> pb.ServedVersion:
    return pb.ServedVersion(
        version=3,
        digest=hashlib.sha256(kind.document.name.encode()).hexdigest(),
        model_sha256=hashlib.sha256(kind.model).hexdigest(),
        golden_sha256=hashlib.sha256(kind.golden.encode()).hexdigest(),
        document_json=kind.document.canonical(),
    )


def _document(name: str, task: str, inputs: Sequence[Mapping[str, Any]], **more: Any) -> ModelDocument:
    views = {item["view"]: (USAGE if item["view"] == "usage" else OFFERS).digest() for item in inputs if "view" in item}
    owner = {"person": "ana"}
    return ModelDocument.model_validate(
        {"name": name, "task": task, "purpose": "a test", "owner": owner, "views": views, "inputs": inputs, **more}
    )


def _model(nodes: list[Any], inputs: Mapping[str, tuple[int, int]], output: int, tensors: Sequence[Any] = ()) -> bytes:
    """A graph with 2-dimensional inputs of (type, width), whose output is y of so many columns."""
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info(name, kind, ["n", width]) for name, (kind, width) in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, ["n", output])],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _tensor(name: str, *values: float) -> Any:
    return helper.make_tensor(name, FLOAT, [len(values)], values)


def _churn() -> Kind:
    """Binary, stored features of three types: sigmoid(minutes / 10 + calls - weight of the state)."""
    inputs = [{"view": "usage", "feature": name, "feeds": name} for name in ("minutes", "calls", "state")]
    decision = {"kind": "threshold", "threshold": 0.5, "hit": "call", "otherwise": "leave"}
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["state"],
            ["weight"],
            domain="ai.onnx.ml",
            keys_strings=list(WEIGHTS),
            values_floats=list(WEIGHTS.values()),
            default_float=100.0,
        ),
        helper.make_node("Cast", ["calls"], ["calls_f"], to=FLOAT),
        helper.make_node("Mul", ["minutes", "tenth"], ["scaled"]),
        helper.make_node("Add", ["scaled", "calls_f"], ["sum"]),
        helper.make_node("Sub", ["sum", "weight"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["y"]),
    ]
    model = _model(
        nodes, {"minutes": (FLOAT, 1), "calls": (INT64, 1), "state": (STRING, 1)}, 1, [_tensor("tenth", 0.1)]
    )
    golden = f"usage.minutes,usage.calls,usage.state,expected\n3,1,tx,{churn_score(3, 1, 'tx')!r}\n"
    document = _document("churn", "binary", inputs, entities=["subscriber"], output={"score": "y"}, decision=decision)
    return Kind(document, model, golden)


def _plan() -> Kind:
    """Multiclass on request-time inputs alone: softmax of three numbers."""
    names = ("a", "b", "c")
    inputs = [{"request": name, "type": "float32", "feeds": "x"} for name in names]
    document = _document(
        "plan",
        "multiclass",
        inputs,
        output={"score": "y", "labels": ["basic", "plus", "max"]},
        decision={"kind": "argmax"},
    )
    model = _model([helper.make_node("Softmax", ["x"], ["y"], axis=1)], {"x": (FLOAT, 3)}, 3)
    third = repr(1 / 3)
    return Kind(document, model, f"a,b,c,expected:basic,expected:plus,expected:max\n0,0,0,{third},{third},{third}\n")


def _offer() -> Kind:
    """Ranking with two entities: four items by minutes, price, their sum and nothing."""
    inputs = [
        {"view": "usage", "feature": "minutes", "feeds": "m"},
        {"view": "offers", "feature": "price", "feeds": "p"},
    ]
    document = _document(
        "offer",
        "ranking",
        inputs,
        entities=["subscriber", "offer"],
        output={"score": "y", "labels": ["sms", "data", "both", "none"]},
        decision={"kind": "top_k", "k": 2},
    )
    nodes = [
        helper.make_node("Add", ["m", "p"], ["both"]),
        helper.make_node("Sub", ["m", "m"], ["none"]),
        helper.make_node("Concat", ["m", "p", "both", "none"], ["y"], axis=1),
    ]
    golden = "usage.minutes,offers.price,expected:sms,expected:data,expected:both,expected:none\n1,2,1,2,3,0\n"
    return Kind(document, _model(nodes, {"m": (FLOAT, 1), "p": (FLOAT, 1)}, 4), golden)


def _fraud() -> Kind:
    """Anomaly that can fail: it gathers by `code`, of which only 0 to 2 exist, and takes the root of `amount`."""
    inputs = [
        {"request": "amount", "type": "float32", "feeds": "amount"},
        {"request": "code", "type": "int64", "feeds": "code", "default": 0},
    ]
    document = _document("fraud", "anomaly", inputs, output={"score": "y"}, nan="reject")
    nodes = [
        helper.make_node("Gather", ["table", "code"], ["factor"]),
        helper.make_node("Sqrt", ["amount"], ["root"]),
        helper.make_node("Mul", ["root", "factor"], ["y"]),
    ]
    model = _model(nodes, {"amount": (FLOAT, 1), "code": (INT64, 1)}, 1, [_tensor("table", 1.0, 10.0, 100.0)])
    return Kind(document, model, "amount,code,expected\n4,1,20\n9,,3\n")


def _revenue() -> Kind:
    """Regression that allows NaN and takes a bool and a string: it counts which of them are as expected."""
    inputs = [
        {"request": "amount", "type": "float32", "feeds": "amount"},
        {"request": "vip", "type": "bool", "feeds": "vip", "default": False},
        {"request": "channel", "type": "string", "feeds": "channel", "default": "shop"},
    ]
    nodes = [
        helper.make_node("IsNaN", ["amount"], ["is_nan"]),
        helper.make_node("Cast", ["is_nan"], ["one"], to=FLOAT),
        helper.make_node("Cast", ["vip"], ["two"], to=FLOAT),
        helper.make_node(
            "LabelEncoder",
            ["channel"],
            ["four"],
            domain="ai.onnx.ml",
            keys_strings=["shop", "web"],
            values_floats=[0.0, 4.0],
            default_float=9.0,
        ),
        helper.make_node("Add", ["one", "two"], ["three"]),
        helper.make_node("Add", ["three", "four"], ["y"]),
    ]
    model = _model(nodes, {"amount": (FLOAT, 1), "vip": (TensorProto.BOOL, 1), "channel": (STRING, 1)}, 1)
    document = _document("revenue", "regression", inputs, output={"score": "y"}, nan="allow")
    return Kind(document, model, "amount,vip,channel,expected\n1,true,web,5\n")


def _strict() -> Kind:
    """Binary with a stored feature that must be there."""
    inputs = [{"view": "usage", "feature": "roaming", "feeds": "x"}]
    document = _document("strict", "binary", inputs, entities=["subscriber"], output={"score": "y"})
    model = _model([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], {"x": (TensorProto.BOOL, 1)}, 1)
    return Kind(document, model, "usage.roaming,expected\ntrue,1\n")
