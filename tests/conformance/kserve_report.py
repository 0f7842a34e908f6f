"""Calls a gateway with all that KServe's gRPC client offers, and prints what came back, as JSON.

Runs in an environment that has kserve and nothing of ours: `python kserve_report.py HOST:PORT`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from columns import DATATYPES, ORDINARY
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.infer_type import RequestedOutput
from kserve.utils.numpy_codec import to_np_dtype


def raw(name: str, datatype: str, given: list[Any]) -> InferInput:
    """A column as raw bytes."""
    dtype = object if datatype == "BYTES" else to_np_dtype(datatype)
    array = np.array([value.encode() if isinstance(value, str) else value for value in given], dtype).reshape(-1, 1)
    column = InferInput(name, list(array.shape), datatype)
    column.set_data_from_numpy(array)
    return column


def typed(name: str, datatype: str, given: list[Any]) -> InferInput:
    """A column in typed contents, which is how this client sends a list."""
    return InferInput(name, [len(given), 1], datatype, data=list(given))


def columns(form: Callable[[str, str, list[Any]], InferInput], **changed: tuple[str, list[Any]]) -> list[InferInput]:
    """A call's inputs for `columns`, all in one form."""
    return [form(name, *given) for name, given in {**ORDINARY, **changed}.items()]


def values(response: Any, output: str) -> list[Any]:
    """An output as numbers and texts."""
    found = response.get_output_by_name(output).as_numpy().reshape(-1).tolist()
    return [value.decode() if isinstance(value, bytes) else value for value in found]


async def refused(call: Awaitable[Any]) -> dict[str, str]:
    """How a call fails: its status, its message, and the details for whoever can read them."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        details = base64.b64encode(trailers.get("grpc-status-details-bin", b"")).decode()
        return {"status": f"StatusCode.{error.code().name}", "message": error.details() or "", "details": details}
    return {"status": "OK", "message": "", "details": ""}


async def about_the_server(client: InferenceGRPCClient, stub: Any) -> Any:
    """Liveness, readiness, and what only its stubs ask."""
    server, model = (
        await stub.ServerMetadata(pb.ServerMetadataRequest()),
        await stub.ModelMetadata(pb.ModelMetadataRequest(name="columns", version="1")),
    )
    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model": await client.is_model_ready("columns"),
        "name": server.name,
        "versions": list(model.versions),
        "inputs": {item.name: item.datatype for item in model.inputs},
    }


async def datatypes(client: InferenceGRPCClient, form: Callable[[str, str, list[Any]], InferInput]) -> Any:
    """Every datatype in one form; FP16 has no typed one."""
    found = {}
    for datatype, (name, given) in DATATYPES.items():
        if datatype == "FP16" and form is typed:
            continue
        request = InferRequest("columns", columns(form, **{name: (datatype, given)}))
        found[datatype] = [given, values(await client.infer(request), f"{name}_out")]
    return found


async def answers(client: InferenceGRPCClient) -> Any:
    """Keys, versions by number and label, a wanted output, and whence an answer comes."""

    async def ask(**more: Any) -> Any:
        return await client.infer(InferRequest("minutes", [raw("entity_id", "BYTES", ["S7", "nobody"])], **more))

    response = await ask(
        request_id="r1", request_outputs=[RequestedOutput("y")], parameters={"campaign": "spring", "n": 3}
    )
    return {
        "id": response.id,
        "model": [response.model_name, response.model_version],
        "values": values(response, "y"),
        "flags": response.parameters["interlock_flags"].string_param,
        "by_version": [values(await ask(model_version=version), "y") for version in ("", "2", "champion")],
        "typed_keys": values(await client.infer(InferRequest("minutes", [typed("entity_id", "BYTES", ["S7"])])), "y"),
    }


async def errors(client: InferenceGRPCClient, stub: Any) -> Any:
    """Each kind of mistake that this client lets a caller make."""

    def infer(model: str, inputs: list[InferInput], version: str = "") -> Awaitable[Any]:
        return client.infer(InferRequest(model, inputs, model_version=version))

    key = raw("entity_id", "BYTES", ["S1"])
    calls = {
        "unknown model": infer("nope", [key]),
        "unknown model is not ready": client.is_model_ready("nope"),
        "a version that does not answer": infer("minutes", [key], "1"),
        "canary without a rollout": infer("minutes", [key], "canary"),
        "word as a version": infer("minutes", [key], "latest"),
        "missing input": infer("columns", columns(raw)[:-1]),
        "raw and typed in one call": infer("columns", [*columns(raw)[:-1], typed("word", "BYTES", ["ny", "tx"])]),
        "an unsigned number above int64": infer("columns", columns(typed, whole=("UINT64", [1, 2**64 - 1]))),
        "a number that is no INT8": infer("columns", columns(typed, whole=("INT8", [1, 300]))),
        "load": stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="minutes")),
        "unload": stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="minutes")),
    }
    return {name: await refused(call) for name, call in calls.items()}


async def main(address: str) -> None:
    """Everything, in one report."""
    logging.disable(logging.CRITICAL)  # this client logs every refused call with its traceback
    async with InferenceGRPCClient(address) as client, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        report = {
            "server": await about_the_server(client, stub),
            "raw": await datatypes(client, raw),
            "typed": await datatypes(client, typed),
            "answers": await answers(client),
            "errors": await errors(client, stub),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
