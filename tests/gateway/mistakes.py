"""What a caller can do wrong, and what it is told: the same by entity keys and by tensors."""

from __future__ import annotations

import math
from typing import Final

from gateway.contract.errors import Reason
from gateway.v1 import inference_pb2, scoring_pb2
from tests.gateway.mistaken_tensors import TENSORS
from tests.gateway.requests import INFERENCE, SCORING, Mistake, batch, infer, keys, mistake, score, tensor

COLUMN = scoring_pb2.InputColumn
ABOUT_NOPE = [
    kind(name="nope")
    for kind in (
        inference_pb2.ModelReadyRequest,
        inference_pb2.ModelMetadataRequest,
        inference_pb2.ModelConfigRequest,
        inference_pb2.ModelStatisticsRequest,
    )
]
JUNK = (b"\xff", b"\x0a\xff\xff", b"\x0a\x02\xff\xfe")
PARSED = (f"{SCORING}Score", f"{SCORING}ScoreBatch", f"{INFERENCE}ModelInfer", f"{INFERENCE}ModelReady")
MISTAKES: Final = [
    # Which model
    mistake(
        "a model that is not served",
        Reason.MODEL_UNKNOWN,
        "'nope'",
        score("nope", "S1"),
        batch("nope", ["S1"]),
        infer("nope", keys("S1")),
        *ABOUT_NOPE,
    ),
    mistake("no model", Reason.MODEL_UNKNOWN, "names no model", score("", "S1"), infer("", keys("S1"))),
    mistake(
        "a model that is not loaded yet",
        Reason.NOT_READY,
        "repeat",
        score("waiting", "S1"),
        infer("waiting", keys("S1")),
    ),
    mistake(
        "a model that an operator stopped",
        Reason.MODEL_STOPPED,
        "was stopped by an operator",
        score("stopped", "S1"),
        batch("stopped", ["S1"]),
        infer("stopped", keys("S1")),
    ),
    mistake(
        "a version that is not served",
        Reason.VERSION_NOT_SERVED,
        "version 3 is",
        score("churn", "S1", 2),
        infer("churn", keys("S1"), version="2"),
        inference_pb2.ModelReadyRequest(name="churn", version="2"),
    ),
    mistake(
        "a canary without a rollout",
        Reason.VERSION_NOT_SERVED,
        "version 3 is",
        infer("churn", keys("S1"), version="canary"),
    ),
    mistake("a version that is none", Reason.VERSION_INVALID, "neither a number", score("churn", "S1", -1)),
    mistake(
        "a word as a version",
        Reason.VERSION_INVALID,
        "neither a number",
        infer("churn", keys("S1"), version="latest"),
    ),
    # Whose row
    mistake(
        "no key",
        Reason.ENTITY_MISMATCH,
        "'subscriber'",
        score("churn"),
        infer("offer", tensor("offer", "BYTES", b"O1")),
    ),
    mistake(
        "a key of another entity",
        Reason.ENTITY_MISMATCH,
        "'account'",
        scoring_pb2.ScoreRequest(model="churn", entities={"account": "A"}),
    ),
    mistake("a key for a model without entities", Reason.ENTITY_MISMATCH, "no entity", score("fraud", "S1")),
    mistake("an empty key", Reason.ENTITY_MISMATCH, "key is empty", score("churn", ""), infer("churn", keys(""))),
    mistake(
        "a key that is too long",
        Reason.ENTITY_MISMATCH,
        "longer than 256 bytes",
        score("churn", "x" * 257),
        infer("churn", keys("x" * 257)),
    ),
    mistake(
        "keys that are no keys",
        Reason.ENTITY_MISMATCH,
        "one key per row",
        infer("churn", tensor("entity_id", "FP32", 1.0)),
    ),
    # Its inputs
    mistake(
        "an input that is not there",
        Reason.INPUT_MISMATCH,
        "'colour'",
        score("fraud", amount=1.0, colour=1.0),
        infer("fraud", tensor("amount", "FP32", 1.0), tensor("colour", "FP32", 1.0)),
    ),
    mistake(
        "an input without a default left out",
        Reason.INPUT_MISMATCH,
        "'amount' (float32) is missing",
        score("fraud", code=1),
        infer("fraud", tensor("code", "INT64", 1)),
    ),
    mistake(
        "an input of another type",
        Reason.INPUT_MISMATCH,
        "'amount' is float32",
        score("fraud", amount="4"),
        batch("fraud", None, COLUMN(name="amount", texts=["4"])),
        infer("fraud", tensor("amount", "BYTES", b"4")),
    ),
    mistake(
        "a value without a kind",
        Reason.INPUT_MISMATCH,
        "has no value",
        scoring_pb2.ScoreRequest(model="fraud", inputs={"amount": scoring_pb2.Value()}),
    ),
    mistake(
        "an input given twice",
        Reason.INPUT_MISMATCH,
        "two columns",
        batch("fraud", None, COLUMN(name="amount", numbers=[1]), COLUMN(name="amount", numbers=[1])),
    ),
    mistake(
        "a column in two types",
        Reason.INPUT_MISMATCH,
        "in 2 lists",
        batch("fraud", None, COLUMN(name="amount", numbers=[1], integers=[1])),
    ),
    mistake(
        "columns of different lengths",
        Reason.INPUT_MISMATCH,
        "'amount' has 2 rows, but 'code' has 1",
        batch("fraud", None, COLUMN(name="amount", numbers=[1, 2]), COLUMN(name="code", integers=[1])),
        infer("fraud", tensor("amount", "FP32", 1.0, 2.0), tensor("code", "INT64", 1)),
    ),
    mistake(
        "NaN that the document refuses",
        Reason.INPUT_NOT_FINITE,
        "'amount'",
        score("fraud", amount=math.nan),
        infer("fraud", tensor("amount", "FP32", math.nan)),
    ),
    mistake("no rows", Reason.BATCH_SIZE, "1 to 256", batch("churn", []), infer("churn", keys())),
    mistake(
        "too many rows",
        Reason.BATCH_SIZE,
        "257 rows",
        batch("churn", ["S1"] * 257),
        infer("churn", keys(*["S1"] * 257)),
    ),
    mistake(
        "a message above the gateway's limit",
        Reason.MESSAGE_TOO_LARGE,
        "max_message_bytes",
        batch("churn", ["x" * 250] * 256 + ["y" * 2000]),
        infer("churn", keys(*["x" * 250] * 256, "y" * 2000)),
    ),
    # What is stored of it, and what the model makes of it
    mistake(
        "a feature that must be there",
        Reason.FEATURE_MISSING,
        "usage.roaming",
        score("strict", "nobody"),
        infer("strict", keys("nobody")),
    ),
    mistake(
        "a feature that must be fresh",
        Reason.FEATURE_STALE,
        "older than its time-to-live",
        score("strict", "stale"),
        infer("strict", keys("stale")),
    ),
    mistake(
        "a stored row that is damaged",
        Reason.FEATURE_DAMAGED,
        "tell the operator",
        score("churn", "damaged"),
        infer("churn", keys("damaged")),
    ),
    mistake(
        "a row on which the model raises",
        Reason.MODEL_FAILED,
        "failed on this row",
        score("fraud", amount=1.0, code=99),
        infer("fraud", tensor("amount", "FP32", 1.0), tensor("code", "INT64", 99)),
    ),
    mistake(
        "a row that gives NaN",
        Reason.SCORE_NOT_FINITE,
        "NaN or infinity",
        score("fraud", amount=-1.0),
        infer("fraud", tensor("amount", "FP32", -1.0)),
    ),
    # What is no call at all
    mistake(
        "loading",
        Reason.LOADING_GOVERNED,
        "'churn'",
        inference_pb2.RepositoryModelLoadRequest(model_name="churn"),
        inference_pb2.RepositoryModelUnloadRequest(model_name="churn"),
    ),
    Mistake(
        "loading as KServe's clients ask for it",
        Reason.LOADING_GOVERNED,
        "'churn'",
        {f"{INFERENCE}RepositoryModelLoad": b"\n\x05churn"},
    ),
    *(
        Mistake(f"bytes {junk.hex()}", Reason.MALFORMED_REQUEST, f"the {len(junk)} bytes", dict.fromkeys(PARSED, junk))
        for junk in JUNK
    ),
    Mistake(
        "a method that is not served",
        Reason.METHOD_UNKNOWN,
        "compare the protos",
        {f"{SCORING}Guess": b"", f"{INFERENCE}Guess": b"", "/other.Service/Score": b""},
    ),
    *TENSORS,
]
