"""What a caller can do wrong, and what it is told: the same by entity keys and by tensors."""

from __future__ import annotations

import math
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


MISTAKES: Final[list[Mistake]] = []


def mistake(name: str, reason: Reason, says: str, *calls: Any) -> None:
    """Adds a line."""
    MISTAKES.append(Mistake(name, reason, says, {METHODS[type(call)]: call.SerializeToString() for call in calls}))


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


COLUMN = scoring_pb2.InputColumn
MINUTES = tensor("minutes", "FP32", 1.0, shape=[1, 1])
CALLS = tensor("calls", "INT64", 1, shape=[1, 1])
STATE = tensor("state", "BYTES", b"ny", shape=[1, 1])
ABOUT_NOPE = [
    kind(name="nope")
    for kind in (
        inference_pb2.ModelReadyRequest,
        inference_pb2.ModelMetadataRequest,
        inference_pb2.ModelConfigRequest,
        inference_pb2.ModelStatisticsRequest,
    )
]

# Which model
mistake(
    "a model that is not served",
    Reason.MODEL_UNKNOWN,
    "'nope'",
    score("nope", "S1"),
    batch("nope", ["S1"]),
    infer("nope", keys("S1")),
    *ABOUT_NOPE,
)
mistake("no model", Reason.MODEL_UNKNOWN, "names no model", score("", "S1"), infer("", keys("S1")))
mistake(
    "a model that is not loaded yet", Reason.NOT_READY, "repeat", score("waiting", "S1"), infer("waiting", keys("S1"))
)
mistake(
    "a version that is not served",
    Reason.VERSION_NOT_SERVED,
    "version 3 is",
    score("churn", "S1", 2),
    infer("churn", keys("S1"), version="2"),
    inference_pb2.ModelReadyRequest(name="churn", version="2"),
)
mistake(
    "a canary without a rollout",
    Reason.VERSION_NOT_SERVED,
    "version 3 is",
    infer("churn", keys("S1"), version="canary"),
)
mistake("a version that is none", Reason.VERSION_INVALID, "neither a number", score("churn", "S1", -1))
mistake(
    "a word as a version",
    Reason.VERSION_INVALID,
    "neither a number",
    infer("churn", keys("S1"), version="latest"),
)

# Whose row
mistake(
    "no key",
    Reason.ENTITY_MISMATCH,
    "'subscriber'",
    score("churn"),
    infer("offer", tensor("offer", "BYTES", b"O1")),
)
mistake(
    "a key of another entity",
    Reason.ENTITY_MISMATCH,
    "'account'",
    scoring_pb2.ScoreRequest(model="churn", entities={"account": "A"}),
)
mistake("a key for a model without entities", Reason.ENTITY_MISMATCH, "no entity", score("fraud", "S1"))
mistake("an empty key", Reason.ENTITY_MISMATCH, "key is empty", score("churn", ""), infer("churn", keys("")))
mistake(
    "a key that is too long",
    Reason.ENTITY_MISMATCH,
    "longer than 256 bytes",
    score("churn", "x" * 257),
    infer("churn", keys("x" * 257)),
)
mistake(
    "keys that are no keys", Reason.ENTITY_MISMATCH, "one key per row", infer("churn", tensor("entity_id", "FP32", 1.0))
)

# Its inputs
mistake(
    "an input that is not there",
    Reason.INPUT_MISMATCH,
    "'colour'",
    score("fraud", amount=1.0, colour=1.0),
    infer("fraud", tensor("amount", "FP32", 1.0), tensor("colour", "FP32", 1.0)),
)
mistake(
    "an input without a default left out",
    Reason.INPUT_MISMATCH,
    "'amount' (float32) is missing",
    score("fraud", code=1),
    infer("fraud", tensor("code", "INT64", 1)),
)
mistake(
    "an input of another type",
    Reason.INPUT_MISMATCH,
    "'amount' is float32",
    score("fraud", amount="4"),
    batch("fraud", None, COLUMN(name="amount", texts=["4"])),
    infer("fraud", tensor("amount", "BYTES", b"4")),
)
mistake(
    "a value without a kind",
    Reason.INPUT_MISMATCH,
    "has no value",
    scoring_pb2.ScoreRequest(model="fraud", inputs={"amount": scoring_pb2.Value()}),
)
mistake(
    "an input given twice",
    Reason.INPUT_MISMATCH,
    "two columns",
    batch("fraud", None, COLUMN(name="amount", numbers=[1]), COLUMN(name="amount", numbers=[1])),
)
mistake("a tensor given twice", Reason.INPUT_MISMATCH, "given twice", infer("churn", MINUTES, MINUTES))
mistake(
    "a column in two types",
    Reason.INPUT_MISMATCH,
    "in 2 lists",
    batch("fraud", None, COLUMN(name="amount", numbers=[1], integers=[1])),
)
mistake(
    "columns of different lengths",
    Reason.INPUT_MISMATCH,
    "'amount' has 2 rows, but 'code' has 1",
    batch("fraud", None, COLUMN(name="amount", numbers=[1, 2]), COLUMN(name="code", integers=[1])),
    infer("fraud", tensor("amount", "FP32", 1.0, 2.0), tensor("code", "INT64", 1)),
)
mistake(
    "NaN that the document refuses",
    Reason.INPUT_NOT_FINITE,
    "'amount'",
    score("fraud", amount=math.nan),
    infer("fraud", tensor("amount", "FP32", math.nan)),
)
mistake("no rows", Reason.BATCH_SIZE, "1 to 256", batch("churn", []), infer("churn", keys()))
mistake(
    "too many rows",
    Reason.BATCH_SIZE,
    "257 rows",
    batch("churn", ["S1"] * 257),
    infer("churn", keys(*["S1"] * 257)),
)
mistake(
    "a message above the gateway's limit",
    Reason.MESSAGE_TOO_LARGE,
    "max_message_bytes",
    batch("churn", ["x" * 250] * 256 + ["y" * 2000]),
    infer("churn", keys(*["x" * 250] * 256, "y" * 2000)),
)

# What is stored of it, and what the model makes of it
mistake(
    "a feature that must be there",
    Reason.FEATURE_MISSING,
    "usage.roaming",
    score("strict", "nobody"),
    infer("strict", keys("nobody")),
)
mistake(
    "a feature that must be fresh",
    Reason.FEATURE_STALE,
    "older than its time-to-live",
    score("strict", "stale"),
    infer("strict", keys("stale")),
)
mistake(
    "a stored row that is damaged",
    Reason.FEATURE_DAMAGED,
    "tell the operator",
    score("churn", "damaged"),
    infer("churn", keys("damaged")),
)
mistake(
    "a row on which the model raises",
    Reason.MODEL_FAILED,
    "failed on this row",
    score("fraud", amount=1.0, code=99),
    infer("fraud", tensor("amount", "FP32", 1.0), tensor("code", "INT64", 99)),
)
mistake(
    "a row that gives NaN",
    Reason.SCORE_NOT_FINITE,
    "NaN or infinity",
    score("fraud", amount=-1.0),
    infer("fraud", tensor("amount", "FP32", -1.0)),
)

# Tensors
mistake("no inputs", Reason.INPUT_MISMATCH, "no inputs", infer("churn"))
mistake(
    "a graph's input left out",
    Reason.INPUT_MISMATCH,
    "missing required input(s) 'state'",
    infer("churn", MINUTES, CALLS),
)
mistake(
    "an input that the graph has not",
    Reason.INPUT_MISMATCH,
    "unexpected inference input 'z'",
    infer("churn", tensor("z", "FP32", 1.0)),
)
mistake("keys beside a graph's inputs", Reason.INPUT_MISMATCH, "mixes two forms", infer("churn", keys("S1"), MINUTES))
mistake(
    "a graph's input of another datatype",
    Reason.INPUT_MISMATCH,
    "is float64, but model 'churn' expects float32",
    infer("churn", tensor("minutes", "FP64", 1.0, shape=[1, 1]), CALLS, STATE),
)
mistake(
    "a datatype that nobody knows",
    Reason.INPUT_MISMATCH,
    "datatype 'COMPLEX'",
    infer("churn", tensor("minutes", "COMPLEX", shape=[1, 1])),
)
mistake(
    "half precision in typed contents",
    Reason.INPUT_MISMATCH,
    "FP16 comes as raw contents only",
    infer("churn", tensor("minutes", "FP16", shape=[1, 1])),
)
mistake(
    "a graph's input of another shape",
    Reason.INPUT_MISMATCH,
    "Expected [-1, 1], got [1, 2]",
    infer("churn", tensor("minutes", "FP32", 1.0, 2.0, shape=[1, 2]), CALLS, STATE),
)
mistake(
    "a graph's inputs of different lengths",
    Reason.INPUT_MISMATCH,
    "'minutes' has 1 rows, but 'state' has 2",
    infer("churn", MINUTES, CALLS, tensor("state", "BYTES", b"ny", b"ny", shape=[2, 1])),
)
mistake(
    "fewer elements than the shape says",
    Reason.INPUT_MISMATCH,
    "unexpected number of elements 1",
    infer("churn", tensor("minutes", "FP32", 1.0, shape=[2, 1])),
)
mistake(
    "a shape that is none", Reason.INPUT_MISMATCH, "which is none", infer("churn", tensor("x", "FP32", 1.0, shape=[-1]))
)
mistake(
    "contents beside raw contents",
    Reason.INPUT_MISMATCH,
    "must not be specified",
    infer("churn", keys("S1"), raw_input_contents=[b"\x02\0\0\0S1"]),
)
mistake(
    "raw contents for other inputs",
    Reason.INPUT_MISMATCH,
    "2 entries for 1 inputs",
    infer("churn", tensor("entity_id", "BYTES", shape=[1]), raw_input_contents=[b"", b""]),
)
mistake(
    "raw contents of another size",
    Reason.INPUT_MISMATCH,
    "Expected 4, got 3",
    infer("churn", tensor("minutes", "FP32", shape=[1, 1]), raw_input_contents=[b"abc"]),
)
mistake(
    "raw texts cut short",
    Reason.INPUT_MISMATCH,
    "expected 1 string elements",
    infer("churn", tensor("entity_id", "BYTES", shape=[1]), raw_input_contents=[b"\xff\0\0\0S1"]),
)
mistake(
    "a text that is no UTF-8", Reason.INPUT_MISMATCH, "no UTF-8", infer("churn", tensor("entity_id", "BYTES", b"\xff"))
)
mistake(
    "an output that the graph has not",
    Reason.INPUT_MISMATCH,
    "unexpected inference output 'q'",
    infer("churn", keys("S1"), outputs=[output("q")]),
)
mistake(
    "a reserved parameter",
    Reason.INPUT_MISMATCH,
    "triton_x",
    infer("churn", keys("S1"), parameters={"triton_x": inference_pb2.InferParameter(bool_param=True)}),
)
mistake(
    "an input in shared memory",
    Reason.INPUT_MISMATCH,
    "asks for shared memory",
    infer("churn", tensor("entity_id", "BYTES", shape=[1], shared_memory_region="r")),
)
mistake(
    "an output as classes",
    Reason.INPUT_MISMATCH,
    "asks for classification",
    infer("churn", keys("S1"), outputs=[output("y", classification={"int64_param": 2})]),
)

# What is no call at all
mistake(
    "loading",
    Reason.LOADING_GOVERNED,
    "'churn'",
    inference_pb2.RepositoryModelLoadRequest(model_name="churn"),
    inference_pb2.RepositoryModelUnloadRequest(model_name="churn"),
)
MISTAKES.append(
    Mistake(
        "loading as KServe's clients ask for it",
        Reason.LOADING_GOVERNED,
        "'churn'",
        {f"{INFERENCE}RepositoryModelLoad": b"\n\x05churn"},
    )
)
for junk in (b"\xff", b"\x0a\xff\xff", b"\x0a\x02\xff\xfe"):
    everywhere = {f"{SCORING}Score": junk, f"{SCORING}ScoreBatch": junk, f"{INFERENCE}ModelInfer": junk}
    everywhere[f"{INFERENCE}ModelReady"] = junk
    MISTAKES.append(Mistake(f"bytes {junk.hex()}", Reason.MALFORMED_REQUEST, f"the {len(junk)} bytes", everywhere))
MISTAKES.append(
    Mistake(
        "a method that is not served",
        Reason.METHOD_UNKNOWN,
        "compare the protos",
        {f"{SCORING}Guess": b"", f"{INFERENCE}Guess": b"", "/other.Service/Score": b""},
    )
)
