"""A control plane and a gateway with two models, for clients that run in environments of their own.

`columns` takes a column of each type that a graph may take and gives each of them back beside its score; `minutes`
takes a stored feature by an entity's key, and its second version answers: the first is registered, and no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import onnx
from onnx import TensorProto, helper

from control.security import Role
from control.v1 import features_pb2, governance_pb2, registry_pb2, rollout_pb2
from tests.control.planes import Client, client_for, key, running
from tests.control.test_registry import upload
from tests.gateway import tiny
from tests.gateway.gateways import Gateway, gateway
from tests.support import until

COLUMNS: Final[Mapping[str, tuple[str, int]]] = {
    "flag": ("bool", TensorProto.BOOL),
    "small": ("int64", TensorProto.INT32),
    "whole": ("int64", TensorProto.INT64),
    "single": ("float32", TensorProto.FLOAT),
    "double": ("float32", TensorProto.DOUBLE),
    "word": ("string", TensorProto.STRING),
}
"""The request-time inputs of `columns`: their type, and that of the graph's input, whose name has `_in` behind it."""
GOLDEN: Final = "flag,small,whole,single,double,word,expected\n1,2,3,0.5,0.25,ny,6.75\n0,-1,1,0,0,tx,0\n"


class Submission(NamedTuple):
    """What a registration takes."""

    document: str
    model: bytes
    golden: bytes


def columns() -> Submission:
    """The model whose score is the sum of its numbers, and which repeats its inputs."""
    numbers = [name for name in COLUMNS if name != "word"]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in COLUMNS]
    nodes += [helper.make_node("Cast", [f"{name}_in"], [f"{name}_f"], to=TensorProto.FLOAT) for name in numbers]
    nodes += [helper.make_node("Sum", [f"{name}_f" for name in numbers], ["y"])]
    graph = helper.make_graph(
        nodes,
        "columns",
        [helper.make_tensor_value_info(f"{name}_in", kind, ["n", 1]) for name, (_, kind) in COLUMNS.items()],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1]),
            *(helper.make_tensor_value_info(f"{name}_out", kind, ["n", 1]) for name, (_, kind) in COLUMNS.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    document = {
        "name": "columns",
        "task": "regression",
        "purpose": "Repeats a column of each type.",
        "owner": {"person": "ana"},
        "inputs": [{"request": name, "type": kind, "feeds": f"{name}_in"} for name, (kind, _) in COLUMNS.items()],
        "output": {"score": "y"},
    }
    return Submission(json.dumps(document), model.SerializeToString(), GOLDEN.encode())


def minutes(number: int) -> Submission:
    """A version of the model that adds its number to a subscriber's minutes."""
    version = tiny.version(number)
    return Submission(tiny.DOCUMENT.canonical(), version.model, version.golden)


@contextmanager
def served(place: Path) -> Iterator[Gateway]:
    """The gateway, from when it serves both models as they were promoted."""
    with running(place / "control") as plane:
        ana = client_for(plane, "ana", Role.DATA_SCIENTIST, Role.FEATURE_WRITER)
        bob = client_for(plane, "bob", Role.APPROVER, Role.ML_ENGINEER)
        _materialize(ana)
        _register(ana, minutes(1))
        for version, submission in ((1, columns()), (2, minutes(2))):
            _promote(bob, version, _register(ana, submission))
        token = f"--token-file={place / 'control' / 'gateway.token'}"
        with gateway(place / "gateway", token, control=plane.address) as gateway_:
            until(lambda: _versions(gateway_) == {("columns", 1), (tiny.MODEL, 2)}, 60)
            until(lambda: gateway_.score("S7").score == 9.0, 60)
            yield gateway_


def _register(ana: Client, submission: Submission) -> Any:
    request = registry_pb2.RegisterVersionRequest(
        idempotency_key=key(),
        document_yaml=submission.document,
        model_sha256=upload(ana, submission.model),
        golden_sha256=upload(ana, submission.golden),
    )
    return ana.call(ana.registry.RegisterVersion, request).version


def _promote(bob: Client, version: int, found: Any) -> None:
    approval = governance_pb2.ApproveVersionRequest(
        idempotency_key=key(), model=found.model, version=version, digest=found.digest
    )
    bob.call(bob.governance.ApproveVersion, approval)
    promotion = rollout_pb2.PromoteVersionRequest(idempotency_key=key(), model=found.model, version=version)
    bob.call(bob.rollout.PromoteVersion, promotion)


def _materialize(ana: Client) -> None:
    view = features_pb2.ApplyViewRequest(idempotency_key=key(), definition_yaml=tiny.VIEW.canonical())
    ana.call(ana.features.ApplyView, view)
    keys = [f"S{number}" for number in range(10)]
    rows = features_pb2.FeatureRows(
        keys=keys,
        event_times_ns=[time.time_ns()] * len(keys),
        columns=[
            features_pb2.FeatureColumn(name="minutes", numbers=range(len(keys))),
            features_pb2.FeatureColumn(name="batch", integers=range(len(keys))),
        ],
    )
    header = features_pb2.MaterializeHeader(idempotency_key=key(), view=tiny.VIEW.name)
    parts = [features_pb2.MaterializeRequest(header=header), features_pb2.MaterializeRequest(rows=rows)]
    answers: Any = ana.features.Materialize(iter(parts), metadata=ana.metadata, timeout=30)
    assert sum(answer.rows for answer in answers) == len(keys)


def _versions(running_gateway: Gateway) -> set[tuple[str, int]]:
    found = running_gateway.board("worker-0").get("versions", [])
    return {(item["model"], item["version"]) for item in found}
