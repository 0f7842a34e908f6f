"""Models as exporters write them by default: registered with the real control plane, scored through the real gateway.

The files, and what the frameworks themselves predict, are made by tests/exporters/make.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pytest

from control.registry.init import draft
from control.security import Role
from control.v1 import governance_pb2, registry_pb2, rollout_pb2
from gateway.contract.errors import Fault
from gateway.v1 import inference_pb2, scoring_pb2, scoring_pb2_grpc
from tests.control.planes import Client, client_for, key, running
from tests.control.test_registry import upload
from tests.exporters.kinds import EDITS, FIXTURES, Kind, read_kind
from tests.gateway.gateways import Gateway, gateway
from tests.support import until

SAYS: Final = {
    "lightgbm": "ZipMap",
    "lightgbm_categories": "ZipMap",
    "sklearn_columns": "ZipMap",
    "sklearn_mixed_columns": "float32 and float64 columns side by side",
    "sklearn_multi_classifier": "side by side",
    "sklearn_multi_forest": "declared 1 wide, but is 2 wide",
    "sklearn_opset26": "ZipMap",
    "sklearn_opset9": "ZipMap",
    "sklearn_text_labels": "ZipMap",
    "torch_listed": "4 initialisers were listed as inputs",
    "torch_one_row": "fixed batch of one",
}
"""What registration warns of."""
AS_THEY_CAME: Final = {*EDITS} - {*SAYS} | {"torch_one_row"}
"""Those that are registered byte for byte."""
INPUTS: Final = {
    "sklearn_columns": [("tariff", "string"), ("calls", "int64"), ("spend", "float32")],
    "sklearn_float64": [(f"x_{index}", "float32") for index in range(1, 5)],
    "sklearn_mixed_columns": [("tariff", "string"), ("calls", "int64"), ("spend", "float32")],
    "torch_int32": [("calls", "int64"), ("spend", "float32")],
}
"""The inputs that are drafted of graphs with other types than float32."""
DATATYPES: Final = {
    "tensor(float)": ("FP32", "fp32_contents"),
    "tensor(double)": ("FP64", "fp64_contents"),
    "tensor(int64)": ("INT64", "int64_contents"),
    "tensor(int32)": ("INT32", "int_contents"),
    "tensor(string)": ("BYTES", "bytes_contents"),
}
ANSWERED: Final = {"FP32": np.float32, "FP64": np.float64}


class Registered(NamedTuple):
    """What a registration answered."""

    kind: Kind
    warnings: str
    detail: registry_pb2.GetVersionResponse


class Served(NamedTuple):
    """Everything registered, promoted and served."""

    registered: dict[str, Registered]
    gateway: Gateway
    ana: Client


def bring_in(kind: Kind, ana: Client, bob: Client) -> Registered:
    """Registers, approves and promotes."""
    request = registry_pb2.RegisterVersionRequest(
        idempotency_key=key(),
        document_yaml=kind.yaml,
        model_sha256=upload(ana, (FIXTURES / f"{kind.name}.onnx").read_bytes()),
        golden_sha256=upload(ana, kind.golden()),
    )
    answer = ana.call(ana.registry.RegisterVersion, request)
    approval = governance_pb2.ApproveVersionRequest(
        idempotency_key=key(), model=kind.name, version=1, digest=answer.version.digest
    )
    bob.call(bob.governance.ApproveVersion, approval)
    bob.call(
        bob.rollout.PromoteVersion, rollout_pb2.PromoteVersionRequest(idempotency_key=key(), model=kind.name, version=1)
    )
    asked = registry_pb2.GetVersionRequest(model=kind.name, version=1)
    return Registered(kind, "\n".join(answer.warnings), ana.call(ana.registry.GetVersion, asked))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One control plane and one gateway with every kind."""
    place = tmp_path_factory.mktemp("exporters")
    with running(place / "control") as plane:
        ana = client_for(plane, "ana", Role.DATA_SCIENTIST)
        bob = client_for(plane, "bob", Role.APPROVER, Role.ML_ENGINEER)
        registered = {name: bring_in(read_kind(name), ana, bob) for name in EDITS}
        token = f"--token-file={place / 'control' / 'gateway.token'}"
        with gateway(place / "gateway", token, control=plane.address) as running_gateway:
            until(lambda: served_models(running_gateway) >= set(EDITS), 60)
            yield Served(registered, running_gateway, ana)


def served_models(running_gateway: Gateway) -> set[str]:
    """The models that its worker serves."""
    return {item["model"] for item in running_gateway.board("worker-0").get("versions", [])}


@pytest.mark.parametrize("name", EDITS)
def test_scores_by_inputs_are_the_frameworks_own(served: Served, name: str) -> None:
    """All rows in one call, through the scoring service."""
    kind = served.registered[name].kind
    request = scoring_pb2.ScoreBatchRequest(model=name)
    for item, column in zip(kind.document.requested, kind.columns, strict=True):
        field = {"float32": "numbers", "int64": "integers", "string": "texts", "bool": "flags"}[item.type]
        request.inputs.append(scoring_pb2.InputColumn(name=item.request, **{field: column}))
    with served.gateway.channel() as channel:
        answer = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreBatch(request, timeout=30)
    assert not answer.errors
    best = [max(row) if kind.document.output.labels else row[0] for row in kind.expected]
    assert list(answer.scores) == pytest.approx(best, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", EDITS)
def test_tensors_of_the_graph_get_the_frameworks_scores(served: Served, name: str) -> None:
    """All rows in one call, through the Open Inference Protocol, as the graph's own inputs and outputs."""
    kind, detail = served.registered[name].kind, served.registered[name].detail
    output = kind.document.output
    request = inference_pb2.ModelInferRequest(model_name=name)
    request.outputs.add(name=output.score)
    for tensor in json.loads(detail.admission_json)["inputs"]:
        fed = [
            column
            for item, column in zip(kind.document.requested, kind.columns, strict=True)
            if item.feeds == tensor["name"]
        ]
        datatype, field = DATATYPES[tensor["type"]]
        values = [text.encode() if isinstance(text, str) else text for row in zip(*fed, strict=True) for text in row]
        one = request.inputs.add(name=tensor["name"], datatype=datatype, shape=[len(fed[0]), len(fed)])
        getattr(one.contents, field).extend(values)
    with served.gateway.channel() as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",  # the public name: our stubs bear a private one
            request_serializer=inference_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=inference_pb2.ModelInferResponse.FromString,
        )
        answer = infer(request, timeout=30)
    dtype = ANSWERED[answer.outputs[0].datatype]
    found = np.frombuffer(answer.raw_output_contents[0], dtype).reshape(len(kind.expected), -1)
    wanted = found if output.labels else found[:, [output.column or 0]]
    np.testing.assert_allclose(wanted, kind.expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EDITS)
def test_registration_says_what_it_changed(served: Served, name: str) -> None:
    """What was rewritten is named, with the digests of both files; what was good as it came stays as it is."""
    found = served.registered[name]
    assert SAYS.get(name, "") in found.warnings
    files = json.loads(found.detail.manifest_json)["artifacts"]
    assert ("uploaded" in files) == (name not in AS_THEY_CAME)
    if name not in AS_THEY_CAME:
        assert files["uploaded"]["sha256"] != files["model"]["sha256"]


@pytest.mark.parametrize("name", INPUTS)
def test_each_column_is_drafted_as_its_graph_has_it(name: str) -> None:
    """By its name and type; float64 is sent as numbers and int32 as integers, like all others."""
    assert [(item.request, item.type) for item in read_kind(name).document.requested] == INPUTS[name]


def test_a_number_that_int32_cannot_hold_fails_alone(served: Served) -> None:
    """It would become another number; the rows beside it have their scores."""
    kind = served.registered["torch_int32"].kind
    request = scoring_pb2.ScoreBatchRequest(model=kind.name)
    request.inputs.add(name="calls", integers=[kind.columns[0][0], 2**32 + 1, kind.columns[0][2]])
    request.inputs.add(name="spend", numbers=kind.columns[1][:3])
    with served.gateway.channel() as channel:
        answer = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreBatch(request, timeout=30)
    assert [(error.row, error.reason) for error in answer.errors] == [(1, "INPUT_MISMATCH")]
    assert "int32" in answer.errors[0].message
    assert answer.scores[::2] == pytest.approx([kind.expected[0][0], kind.expected[2][0]], abs=1e-5)


REFUSED: Final = {
    "pickle": ("format", r"a pickle.*skl2onnx\.to_onnx\(model, X\[:1\]\)"),
    "torch_external": ("external_data", r"torch\.onnx\.export\(\.\.\., external_data=False\)"),
}
"""What no gateway serves: the check that says so, and how to make something servable of it."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_told_how_it_can(name: str) -> None:
    """At the first command that sees it."""
    check, says = REFUSED[name]
    with pytest.raises(Fault, match=says) as caught:
        draft(FIXTURES / f"{name}.onnx")
    assert caught.value.facts["check"] == check


@pytest.mark.parametrize("name", REFUSED)
def test_registration_says_the_same(served: Served, name: str) -> None:
    """To those who brought a document along."""
    check, says = REFUSED[name]
    kind = served.registered["lightgbm"].kind
    request = registry_pb2.RegisterVersionRequest(
        idempotency_key=key(),
        document_yaml=kind.yaml,
        model_sha256=upload(served.ana, (FIXTURES / f"{name}.onnx").read_bytes()),
        golden_sha256=upload(served.ana, kind.golden()),
    )
    refused = served.ana.refused(served.ana.registry.RegisterVersion, request)
    assert f"the check `{check}`" in refused.message
    assert re.search(says, refused.message)
