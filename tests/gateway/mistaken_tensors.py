"""What a caller can do wrong with tensors alone, which only the Open Inference Protocol has."""

from __future__ import annotations

from typing import Final

from gateway.contract.errors import Reason
from gateway.v1 import inference_pb2
from tests.gateway.requests import infer, keys, mistake, output, tensor

MINUTES = tensor("minutes", "FP32", 1.0, shape=[1, 1])
CALLS = tensor("calls", "INT64", 1, shape=[1, 1])
STATE = tensor("state", "BYTES", b"ny", shape=[1, 1])
TENSORS: Final = [
    mistake("a tensor given twice", Reason.INPUT_MISMATCH, "given twice", infer("churn", MINUTES, MINUTES)),
    mistake("no inputs", Reason.INPUT_MISMATCH, "no inputs", infer("churn")),
    mistake(
        "a graph's input left out",
        Reason.INPUT_MISMATCH,
        "missing required input(s) 'state'",
        infer("churn", MINUTES, CALLS),
    ),
    mistake(
        "an input that the graph has not",
        Reason.INPUT_MISMATCH,
        "unexpected inference input 'z'",
        infer("churn", tensor("z", "FP32", 1.0)),
    ),
    mistake(
        "keys beside a graph's inputs", Reason.INPUT_MISMATCH, "mixes two forms", infer("churn", keys("S1"), MINUTES)
    ),
    mistake(
        "a graph's input of another datatype",
        Reason.INPUT_MISMATCH,
        "is float64, but model 'churn' expects float32",
        infer("churn", tensor("minutes", "FP64", 1.0, shape=[1, 1]), CALLS, STATE),
    ),
    mistake(
        "a datatype that nobody knows",
        Reason.INPUT_MISMATCH,
        "datatype 'COMPLEX'",
        infer("churn", tensor("minutes", "COMPLEX", shape=[1, 1])),
    ),
    mistake(
        "half precision in typed contents",
        Reason.INPUT_MISMATCH,
        "FP16 comes as raw contents only",
        infer("churn", tensor("minutes", "FP16", shape=[1, 1])),
    ),
    mistake(
        "a graph's input of another shape",
        Reason.INPUT_MISMATCH,
        "Expected [-1, 1], got [1, 2]",
        infer("churn", tensor("minutes", "FP32", 1.0, 2.0, shape=[1, 2]), CALLS, STATE),
    ),
    mistake(
        "a graph's inputs of different lengths",
        Reason.INPUT_MISMATCH,
        "'minutes' has 1 rows, but 'state' has 2",
        infer("churn", MINUTES, CALLS, tensor("state", "BYTES", b"ny", b"ny", shape=[2, 1])),
    ),
    mistake(
        "fewer elements than the shape says",
        Reason.INPUT_MISMATCH,
        "unexpected number of elements 1",
        infer("churn", tensor("minutes", "FP32", 1.0, shape=[2, 1])),
    ),
    mistake(
        "a shape that is none",
        Reason.INPUT_MISMATCH,
        "which is none",
        infer("churn", tensor("x", "FP32", 1.0, shape=[-1])),
    ),
    mistake(
        "contents beside raw contents",
        Reason.INPUT_MISMATCH,
        "must not be specified",
        infer("churn", keys("S1"), raw_input_contents=[b"\x02\0\0\0S1"]),
    ),
    mistake(
        "raw contents for other inputs",
        Reason.INPUT_MISMATCH,
        "2 entries for 1 inputs",
        infer("churn", tensor("entity_id", "BYTES", shape=[1]), raw_input_contents=[b"", b""]),
    ),
    mistake(
        "raw contents of another size",
        Reason.INPUT_MISMATCH,
        "Expected 4, got 3",
        infer("churn", tensor("minutes", "FP32", shape=[1, 1]), raw_input_contents=[b"abc"]),
    ),
    mistake(
        "raw texts cut short",
        Reason.INPUT_MISMATCH,
        "expected 1 string elements",
        infer("churn", tensor("entity_id", "BYTES", shape=[1]), raw_input_contents=[b"\xff\0\0\0S1"]),
    ),
    mistake(
        "a text that is no UTF-8",
        Reason.INPUT_MISMATCH,
        "no UTF-8",
        infer("churn", tensor("entity_id", "BYTES", b"\xff")),
    ),
    mistake(
        "an output that the graph has not",
        Reason.INPUT_MISMATCH,
        "unexpected inference output 'q'",
        infer("churn", keys("S1"), outputs=[output("q")]),
    ),
    mistake(
        "a reserved parameter",
        Reason.INPUT_MISMATCH,
        "triton_x",
        infer("churn", keys("S1"), parameters={"triton_x": inference_pb2.InferParameter(bool_param=True)}),
    ),
    mistake(
        "an input in shared memory",
        Reason.INPUT_MISMATCH,
        "asks for shared memory",
        infer("churn", tensor("entity_id", "BYTES", shape=[1], shared_memory_region="r")),
    ),
    mistake(
        "an output as classes",
        Reason.INPUT_MISMATCH,
        "asks for classification",
        infer("churn", keys("S1"), outputs=[output("y", classification={"int64_param": 2})]),
    ),
]
