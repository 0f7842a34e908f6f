"""The messages of the Open Inference Protocol's inference calls: parsed into tensors, and answers made into replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.message import DecodeError

from gateway.contract.errors import Fault, Reason
from gateway.request import Answers, Arm, Mark, Request, Slice
from gateway.transport import Call, Reply
from gateway.v1 import inference_pb2 as pb
from gateway.wire import Method
from gateway.wire.status import refuse
from gateway.wire.tensors import DATATYPES, read_tensors, write_raw

SERVICE: Final = "inference.GRPCInferenceService"
RESERVED_PREFIX: Final = "triton_"
FINAL_WANTED: Final = "triton_enable_empty_final_response"
"""Sent on a stream by who wants to be told which answer to a request is its last; with us each one is."""
FINAL: Final = "triton_final_response"
NOT_OFFERED: Final = MappingProxyType({"shared_memory_region": "shared memory", "classification": "classification"})
"""Extensions that are asked for by a parameter of a tensor: whoever got an answer without them would misread it."""
FLAGS: Final = ("entity_unknown", "features_stale")


def decode_infer(call: Call) -> Request:
    """Reads a ModelInferRequest; raises Fault where it is none."""
    try:
        message = pb.ModelInferRequest.FromString(call.request)
    except DecodeError:
        raise Fault(
            Reason.MALFORMED_REQUEST,
            f"the {len(call.request)} bytes are no ModelInferRequest of the Open Inference Protocol",
        ) from None
    _check_parameters(message)
    return Request(
        message.model_name,
        message.model_version,
        call.deadline_ns,
        entities={},
        tensors=read_tensors(message),
        outputs=tuple(output.name for output in message.outputs),
        id=message.id,
    )


def encode_infer(part: Slice) -> bytes:
    """Writes a ModelInferResponse."""
    return _response(part).SerializeToString()


def encode_stream(part: Slice) -> bytes:
    """Writes a ModelStreamInferResponse."""
    response = _response(part)
    response.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(infer_response=response).SerializeToString()


def refuse_stream(request: Request | None, fault: Fault) -> Reply:
    """The message that says what was wrong with one of a stream: its code's name, and the reason with the message."""
    response = pb.ModelStreamInferResponse(
        error_message=f"[{fault.code.name}] {fault.reason}: {fault.message}",
        infer_response=pb.ModelInferResponse(id=request.id if request else ""),
    )
    return Reply(response.SerializeToString())


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        f"/{SERVICE}/ModelInfer": Method(decode_infer, encode_infer, refuse, whole=True),
        f"/{SERVICE}/ModelStreamInfer": Method(decode_infer, encode_stream, refuse_stream, whole=True, streams=True),
    }
)


def _check_parameters(message: pb.ModelInferRequest) -> None:
    for name in message.parameters:
        if name.startswith(RESERVED_PREFIX) and name != FINAL_WANTED:
            raise Fault(
                Reason.INPUT_MISMATCH, f"parameter keys starting with {RESERVED_PREFIX!r} are reserved: {name[:100]}"
            )
    for tensors in (message.inputs, message.outputs):
        for tensor in tensors:
            if asked := NOT_OFFERED.keys() & tensor.parameters.keys():
                raise Fault(
                    Reason.INPUT_MISMATCH,
                    f"tensor {tensor.name[:100]!r} asks for {NOT_OFFERED[min(asked)]} ({min(asked)}), which is not "
                    "offered here; send and take the values themselves",
                )


def _response(part: Slice) -> pb.ModelInferResponse:
    request, answers, start, stop = part
    response = pb.ModelInferResponse(model_name=answers.model, model_version=_text(answers.version), id=request.id)
    for name, values in answers.outputs.items():
        rows = values[start:stop]
        response.outputs.add(name=name, datatype=DATATYPES[rows.dtype], shape=rows.shape)
        response.raw_output_contents.append(write_raw(rows))
    for name, value in _parameters(answers, start, stop).items():
        _set(response.parameters[name], value)
    return response


def _parameters(answers: Answers, start: int, stop: int) -> dict[str, int | str]:
    """Where the answer came from: of one row its values, of several rows texts with commas."""
    found: dict[str, int | str] = {
        "interlock_prediction_id": f"{answers.raw_prefix.decode()}{answers.first_row + start:012x}",
        "interlock_arm": Arm(answers.arm).name.lower(),
        "interlock_revision": answers.revision,
    }
    if answers.decisions:
        found["interlock_decision"] = _joined(answers.decisions[start:stop])
    if answers.defaulted:
        found["interlock_defaulted"] = _joined(answers.defaulted[start:stop])
    if answers.ages_ms:
        found["interlock_feature_age_ms"] = _joined(answers.ages_ms[start:stop])
    if answers.unknown is not None or answers.stale is not None or answers.marks:
        facts, marks = (answers.unknown, answers.stale), _mark_names(answers.marks)
        rows = [
            "|".join([*(f for f, m in zip(FLAGS, facts, strict=True) if m is not None and m[r]), *marks])
            for r in range(start, stop)
        ]
        if any(rows):
            found["interlock_flags"] = _joined(rows)
    return found


def _joined(values: Sequence[Any]) -> int | str:
    return values[0] if len(values) == 1 else ",".join(map(str, values))


def _set(parameter: pb.InferParameter, value: int | str) -> None:
    if isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = value


@lru_cache(maxsize=16)
def _mark_names(marks: int) -> tuple[str, ...]:
    return tuple(str(mark.name).lower() for mark in Mark if mark & marks)


@lru_cache(maxsize=1024)
def _text(version: int) -> str:
    return str(version)
