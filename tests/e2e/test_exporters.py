"""Models as exporters write them by default: registered with the real control plane, scored through the real gateway.

The files, and what the frameworks themselves predict, are made by tests/exporters/make.py.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest

from control.registry.document import read_model
from control.registry.init import draft
from control.security import Role
from control.v1 import governance_pb2, registry_pb2, rollout_pb2
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault
from gateway.v1 import inference_pb2, scoring_pb2, scoring_pb2_grpc
from tests.control.planes import Client, client_for, key, running
from tests.control.test_registry import upload
from tests.gateway.gateways import Gateway, gateway
from tests.support import until

FIXTURES: Final = Path(__file__).parents[1] / "exporters" / "fixtures"
EDITS: Final[dict[str, Mapping[str, str]]] = {
    "lightgbm": {},
    "lightgbm_ranker": {"task: regression": "task: ranking"},
    "sklearn_isolation_forest": {},
    "sklearn_multi_classifier": {},
    "sklearn_multi_output": {},
    "sklearn_regression": {},
    "sklearn_text_labels": {},
    "torch_one_row": {},
    "torch_ranking": {"task: multiclass": "task: ranking", "kind: argmax": "kind: top_k"},
    "xgboost": {},
}
"""What a person changes in each draft, beside the purpose and the owner that only a person knows."""
SAYS: Final = {
    "lightgbm": "ZipMap",
    "sklearn_text_labels": "ZipMap",
    "sklearn_multi_classifier": "side by side",
    "torch_one_row": "fixed batch of one",
}
"""What registration warns of."""
DATATYPES: Final = {
    "tensor(float)": ("FP32", "fp32_contents"),
    "tensor(double)": ("FP64", "fp64_contents"),
    "tensor(int64)": ("INT64", "int64_contents"),
    "tensor(string)": ("BYTES", "bytes_contents"),
}


class Kind(NamedTuple):
    """One exporter's model, with rows and what the framework says of them."""

    name: str
    document: ModelDocument
    yaml: str
    columns: list[list[Any]]
    """As many as the document has inputs, in their order."""
    expected: list[list[float]]

    def golden(self) -> bytes:
        """The rows as golden rows."""
        labels = self.document.output.labels
        header = [f"expected:{label}" for label in labels] if labels else ["expected"]
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow([item.request for item in self.document.requested] + header)
        writer.writerows(
            [*row, *found] for row, found in zip(zip(*self.columns, strict=True), self.expected, strict=True)
        )
        return file.getvalue().encode()


class Registered(NamedTuple):
    """What a registration answered."""

    kind: Kind
    warnings: str
    detail: registry_pb2.GetVersionResponse


def read_kind(name: str) -> Kind:
    """Drafts the document as `model init` does, and fills it in."""
    text = draft(FIXTURES / f"{name}.onnx")
    for old, new in {'purpose: ""': "purpose: A test.", 'person: ""': "person: ana", **EDITS[name]}.items():
        assert old in text, text
        text = text.replace(old, new)
    found = json.loads((FIXTURES / f"{name}.json").read_text())
    return Kind(name, read_model(text), text, list(found["inputs"].values()), found["expected"])


class Served(NamedTuple):
    """Everything registered, promoted and served."""

    registered: dict[str, Registered]
    gateway: Gateway


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
            yield Served(registered, running_gateway)


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
    found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(kind.expected), -1)
    wanted = found if output.labels else found[:, [output.column or 0]]
    np.testing.assert_allclose(wanted, kind.expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EDITS)
def test_registration_says_what_it_changed(served: Served, name: str) -> None:
    """What was rewritten is named, with the digests of both files; what was good as it came stays as it is."""
    found = served.registered[name]
    assert SAYS.get(name, "") in found.warnings
    files = json.loads(found.detail.manifest_json)["artifacts"]
    rewritten = SAYS.get(name) in ("ZipMap", "side by side")
    assert ("uploaded" in files) == rewritten
    if rewritten:
        assert files["uploaded"]["sha256"] != files["model"]["sha256"]


@pytest.mark.parametrize(("name", "says"), [("pickle", "pickle"), ("pickle", "skl2onnx")])
def test_a_pickle_is_told_how_to_become_a_model(name: str, says: str) -> None:
    """At the first command that sees it."""
    with pytest.raises(Fault, match=says):
        draft(FIXTURES / f"{name}.onnx")
