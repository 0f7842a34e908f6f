"""Requests of both faces in few words, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from gateway.contract.errors import Reason
from gateway.v1 import inference_pb2, scoring_pb2

SCORING: Final = "/gateway.v1.ScoringService/"
INFERENCE: Final = "/inference.GRPCInferenceService/"
FORM: Final = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class Mistake(NamedTuple):
    """One line of the table; the status code is the catalogue's."""

    name: str
    reason: Reason
    says: str
    """What the message has in it, whoever asks."""
    calls: Mapping[str, bytes]
    """Requests by the full name of the method."""


def mistake(name: str, reason: Reason, says: str, *calls: Any) -> Mistake:
    """A line, from its requests."""
    return Mistake(name, reason, says, {METHODS[type(call)]: call.SerializeToString() for call in calls})


METHODS: Final = {
    scoring_pb2.ScoreRequest: f"{SCORING}Score",
    scoring_pb2.ScoreBatchRequest: f"{SCORING}ScoreBatch",
    inference_pb2.ModelInferRequest: f"{INFERENCE}ModelInfer",
    inference_pb2.ModelReadyRequest: f"{INFERENCE}ModelReady",
    inference_pb2.ModelMetadataRequest: f"{INFERENCE}ModelMetadata",
    inference_pb2.ModelConfigRequest: f"{INFERENCE}ModelConfig",
    inference_pb2.ModelStatisticsRequest: f"{INFERENCE}ModelStatistics",
    inference_pb2.RepositoryModelLoadRequest: f"{INFERENCE}RepositoryModelLoad",
    inference_pb2.RepositoryModelUnloadRequest: f"{INFERENCE}RepositoryModelUnload",
}


def score(model: str, key: str | None = None, version: int = 0, /, **inputs: Any) -> Any:
    """One row by a subscriber's key and request-time inputs."""
    kinds: dict[type, str] = {float: "number", int: "integer", str: "text", bool: "flag"}
    values = {name: scoring_pb2.Value(**{kinds[type(value)]: value}) for name, value in inputs.items()}
    entities = {} if key is None else {"subscriber": key}
    return scoring_pb2.ScoreRequest(model=model, version=version, entities=entities, inputs=values)


def batch(model: str, keys: list[str] | None = None, *columns: Any) -> Any:
    """Rows, column by column."""
    entities = [scoring_pb2.EntityColumn(entity="subscriber", keys=keys)] if keys is not None else []
    return scoring_pb2.ScoreBatchRequest(model=model, entities=entities, inputs=columns)


def infer(model: str, *inputs: Any, version: str = "", **more: Any) -> Any:
    """Rows as tensors."""
    return inference_pb2.ModelInferRequest(model_name=model, model_version=version, inputs=inputs, **more)


def tensor(name: str, datatype: str, *values: Any, shape: list[int] | None = None, **parameters: str) -> Any:
    """An input, typed."""
    said = {key: inference_pb2.InferParameter(string_param=value) for key, value in parameters.items()}
    found = inference_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape or [len(values)], parameters=said
    )
    if values:
        getattr(found.contents, FORM[datatype]).extend(values)
    return found


def keys(*values: str) -> Any:
    """The subscribers' keys as a tensor."""
    return tensor("entity_id", "BYTES", *(value.encode() for value in values), shape=[len(values)])


def output(name: str, **parameters: Any) -> Any:
    """An output that is wanted."""
    said = {key: inference_pb2.InferParameter(**value) for key, value in parameters.items()}
    return inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=said)
