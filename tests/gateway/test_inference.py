"""The Open Inference Protocol, spoken by a client that we did not write, by reflection, and byte by byte."""

from __future__ import annotations

import math
import queue
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gateway.v1 import inference_pb2 as pb
from gateway.v1 import scoring_pb2, scoring_pb2_grpc
from tests.gateway import zoo
from tests.gateway.gateways import Gateway
from tests.gateway.test_scoring import subscriber
from tests.support import until

SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    data = tmp_path_factory.mktemp("protocol") / "gateway"
    data.mkdir()
    zoo.place(data)
    running = Gateway(data)
    until(running.ready)
    yield running
    running.process.terminate()
    assert running.process.wait(30) == 0


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[Any]:
    with triton.InferenceServerClient(gateway.supervisor()["address"]) as opened:
        yield opened


@pytest.fixture(scope="module")
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with gateway.channel() as opened:
        yield opened


def tensor(name: str, values: Any, datatype: str) -> Any:
    """An input of tritonclient's, raw."""
    array = np.array(values, object if datatype == "BYTES" else None)
    given = triton.InferInput(name, array.shape, datatype)
    given.set_data_from_numpy(array.astype(triton.triton_to_np_dtype(datatype)) if datatype != "BYTES" else array)
    return given


def churn_tensors(minutes: float, calls: int, state: str) -> list[Any]:
    """One row of the churn graph's own inputs."""
    return [
        tensor("minutes", [[minutes]], "FP32"),
        tensor("calls", [[calls]], "INT64"),
        tensor("state", [[state.encode()]], "BYTES"),
    ]


def test_tritonclient_finds_the_server_and_its_models(client: Any) -> None:
    """Liveness, readiness, metadata, configuration, index: all that it asks before it infers."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("churn")
    assert client.is_model_ready("churn", "3")
    assert client.is_model_ready("churn", "champion")
    assert client.get_server_metadata().name == "interlock"
    metadata = client.get_model_metadata("churn")
    assert (metadata.platform, list(metadata.versions)) == ("onnxruntime_onnx", ["3"])
    assert [(item.name, item.datatype, list(item.shape)) for item in metadata.inputs] == [
        ("minutes", "FP32", [-1, 1]),
        ("calls", "INT64", [-1, 1]),
        ("state", "BYTES", [-1, 1]),
    ]
    config = client.get_model_config("churn").config
    assert (config.name, config.max_batch_size, config.backend) == ("churn", 256, "onnxruntime")
    assert [(item.name, item.data_type, list(item.dims)) for item in config.input] == [
        ("minutes", 11, [1]),
        ("calls", 9, [1]),
        ("state", 13, [1]),
    ]
    index = client.get_model_repository_index().models
    assert [(model.name, model.version, model.state) for model in index][:2] == [
        ("churn", "3", "READY"),
        ("fraud", "3", "READY"),
    ]


def test_tritonclient_infers_by_the_graphs_own_tensors(client: Any) -> None:
    """Raw tensors of three datatypes, texts among them; the reply says where it came from."""
    result = client.infer("churn", churn_tensors(7.0, 2, "tx"), request_id="r1")
    assert result.as_numpy("y")[0, 0] == pytest.approx(zoo.churn_score(7, 2, "tx"), abs=1e-6)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("r1", "churn", "3")
    parameters = {name: p.string_param or p.int64_param for name, p in response.parameters.items()}
    assert (parameters["interlock_arm"], parameters["interlock_revision"]) == ("champion", 7)
    assert parameters["interlock_decision"] == "call"
    assert len(parameters["interlock_prediction_id"]) == 28


def test_tritonclient_infers_by_entity_id(client: Any) -> None:
    """The keys come in a tensor called entity_id, and the features from the online store."""
    keys = tensor("entity_id", [b"S7", b"nobody", b"stale"], "BYTES")
    result = client.infer("churn", [keys], outputs=[triton.InferRequestedOutput("y")], model_version="champion")
    assert result.as_numpy("y")[:, 0] == pytest.approx(
        [zoo.churn_score(7, 2, "tx"), zoo.churn_score(1.5, 0, "other"), zoo.churn_score(1.5, 0, "ny")], abs=1e-6
    )
    parameters = {name: p.string_param for name, p in result.get_response().parameters.items()}
    assert parameters["interlock_arm"] == "pinned"
    assert parameters["interlock_defaulted"] == "0,3,1"
    assert parameters["interlock_flags"] == ",entity_unknown,features_stale"
    assert parameters["interlock_feature_age_ms"].startswith("0,-1,")


def test_several_entities_and_request_time_inputs_come_by_their_names(client: Any) -> None:
    """Two entities; then inputs of every type, some left to their defaults."""
    ranked = client.infer("offer", [tensor("subscriber", [b"S1"], "BYTES"), tensor("offer", [b"O2"], "BYTES")])
    assert ranked.as_numpy("y").tolist() == [[1.0, 3.0, 4.0, 0.0]]
    scored = client.infer("fraud", [tensor("amount", [4.0, 9.0], "FP64")])
    assert scored.as_numpy("y").tolist() == [[2.0], [3.0]]
    mixed = client.infer(
        "revenue",
        [
            tensor("amount", [[math.nan]], "FP32"),
            tensor("vip", [[True]], "BOOL"),
            tensor("channel", [[b"web"]], "BYTES"),
        ],
    )
    assert mixed.as_numpy("y").tolist() == [[6.0]]


def test_tritonclient_streams(client: Any) -> None:
    """Answers come in the order of the requests; a bad one has a message, and the stream goes on."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("churn", [tensor("entity_id", [b"S7"], "BYTES")], request_id="a")
    client.async_stream_infer("nope", [tensor("entity_id", [b"S7"], "BYTES")], request_id="b")
    client.async_stream_infer("churn", [tensor("entity_id", [b"S8"], "BYTES")], request_id="c")
    (first, _), (_, error), (third, _) = (answers.get(timeout=20) for _ in range(3))
    client.stop_stream()
    assert (first.get_response().id, third.get_response().id) == ("a", "c")
    assert "MODEL_UNKNOWN" in str(error)


def test_statistics_count_what_was_asked(client: Any) -> None:
    """The observer's figures, which follow the journal."""

    def counted() -> int:
        (found,) = client.get_inference_statistics("plan").model_stats
        return int(found.inference_stats.success.count) if found.execution_count else 0

    before = counted()
    client.infer("plan", [tensor(name, [0.0, 1.0], "FP32") for name in "abc"])
    until(lambda: counted() == before + 2)
    (found,) = client.get_inference_statistics("plan").model_stats
    assert found.last_inference > 1_600_000_000_000
    assert found.inference_stats.compute_infer.ns > 0
    assert len(client.get_inference_statistics().model_stats) == 6


NUMBERS = [
    ("BOOL", "bool_contents", "vip", [True], np.bool_),
    ("FP32", "fp32_contents", "amount", [4.0], np.float32),
    ("FP64", "fp64_contents", "amount", [4.0], np.float64),
    ("INT8", "int_contents", "amount", [4], np.int8),
    ("INT16", "int_contents", "amount", [4], np.int16),
    ("INT32", "int_contents", "amount", [4], np.int32),
    ("INT64", "int64_contents", "amount", [4], np.int64),
    ("UINT8", "uint_contents", "amount", [4], np.uint8),
    ("UINT32", "uint_contents", "amount", [4], np.uint32),
    ("UINT64", "uint64_contents", "amount", [4], np.uint64),
]


@pytest.mark.parametrize(("datatype", "field", "name", "values", "dtype"), NUMBERS, ids=[row[0] for row in NUMBERS])
def test_every_datatype_is_read_raw_and_typed(
    channel: grpc.Channel, datatype: str, field: str, name: str, values: list[Any], dtype: Any
) -> None:
    """Both ways give the same answer."""
    model, others = ("revenue", [given("amount", "FP32", [1], fp32_contents=[1.0])]) if name == "vip" else ("fraud", [])
    typed = infer(channel, model, [given(name, datatype, [1], **{field: values}), *others])
    raw = pb.ModelInferRequest(model_name=model, inputs=[given(name, datatype, [1])])
    raw.raw_input_contents.append(np.array(values, dtype).tobytes())
    if others:
        raw.inputs.add(name="amount", datatype="FP32", shape=[1])
        raw.raw_input_contents.append(struct.pack("<f", 1.0))
    assert ask(channel, raw).raw_output_contents == typed.raw_output_contents
    assert typed.outputs[0].datatype == "FP32"


def test_texts_are_read_typed(channel: grpc.Channel) -> None:
    """BYTES in contents have no lengths before them."""
    reply = infer(channel, "churn", [given("entity_id", "BYTES", [2], bytes_contents=[b"S7", b"S8"])])
    assert np.frombuffer(reply.raw_output_contents[0], np.float32)[0] == pytest.approx(zoo.churn_score(7, 2, "tx"))


def given(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    """An input, typed."""
    return pb.ModelInferRequest.InferInputTensor(
        name=name,
        datatype=datatype,
        shape=shape,
        contents=pb.InferTensorContents(**contents) if contents else None,
    )


def test_our_stubs_and_tritonclients_live_in_one_process(client: Any, channel: grpc.Channel) -> None:
    """Ours bear a private package's name, so that neither disturbs the other; the server's is public."""
    theirs = type(client.get_model_metadata("churn")).DESCRIPTOR.full_name
    assert (theirs, pb.ModelMetadataResponse.DESCRIPTOR.full_name) == (
        "inference.ModelMetadataResponse",
        "gateway.v1.ModelMetadataResponse",
    )
    ours = channel.unary_unary(SERVICE + "ModelMetadata")(pb.ModelMetadataRequest(name="churn").SerializeToString())
    assert ours == client.get_model_metadata("churn").SerializeToString(deterministic=True)


@pytest.mark.parametrize("port", ["address", "admin_address"])
def test_health_and_channelz_answer_on_both_ports(gateway: Gateway, port: str) -> None:
    """The standard clients of both work."""
    with gateway.channel(port) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        servers = channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest(), timeout=10)
        assert servers.server


def test_a_call_built_from_reflection_alone_works(gateway: Gateway) -> None:
    """Nothing of ours is used but what the server says of itself, under its public name."""
    with gateway.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"gateway.v1.ScoringService", "inference.GRPCInferenceService"} <= set(database.get_services())
        method = (
            DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelInfer"]
        )
        ask_type, answer_type = (message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type))
        request = ask_type(model_name="churn")
        request.inputs.add(name="entity_id", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"S7")
        call = channel.unary_unary(
            SERVICE + "ModelInfer",
            request_serializer=ask_type.SerializeToString,
            response_deserializer=answer_type.FromString,
        )
        assert call(request, timeout=10).model_version == "3"
    with gateway.channel("admin_address") as channel:
        assert "gateway.v1.AdminService" in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_scores_stream_in_order_and_a_bad_row_fails_alone(channel: grpc.Channel) -> None:
    """Each message has its own answer, with its id."""
    rows = [("a", subscriber("churn", "S7")), ("b", subscriber("churn", "")), ("c", subscriber("churn", "S8"))]
    requests = (scoring_pb2.ScoreStreamRequest(id=id_, row=row) for id_, row in rows)
    replies = list(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream(requests, timeout=20))
    assert [reply.id for reply in replies] == ["a", "b", "c"]
    assert replies[0].score.score == pytest.approx(zoo.churn_score(7, 2, "tx"), abs=1e-6)
    assert replies[1].error.reason == "ENTITY_MISMATCH"
    assert replies[2].WhichOneof("result") == "score"


def infer(channel: grpc.Channel, model: str, inputs: list[Any]) -> pb.ModelInferResponse:
    """Infers with typed inputs."""
    return ask(channel, pb.ModelInferRequest(model_name=model, inputs=inputs))


def ask(channel: grpc.Channel, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Calls ModelInfer under its public name."""
    reply = channel.unary_unary(SERVICE + "ModelInfer")(request.SerializeToString(), timeout=20)
    return pb.ModelInferResponse.FromString(reply)
