"""Calls a gateway with all that tritonclient offers a tabular server, and prints what came back, as JSON.

Runs in an environment that has tritonclient and nothing of ours: `python triton_report.py HOST:PORT`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import queue
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from columns import DATATYPES, GRAPH, ORDINARY
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def tensor(name: str, datatype: str, values: list[Any]) -> Any:
    """An input of one column, raw, as this client always sends it."""
    dtype = object if datatype == "BYTES" else triton_to_np_dtype(datatype)
    array = np.array([value.encode() if isinstance(value, str) else value for value in values], dtype).reshape(-1, 1)
    given = triton.InferInput(name, array.shape, datatype)
    given.set_data_from_numpy(array)
    return given


def key(*keys: str) -> list[Any]:
    """The keys of subscribers."""
    return [tensor("entity_id", "BYTES", list(keys))]


def values(result: Any, output: str) -> list[Any]:
    """An output as numbers and texts."""
    found = result.as_numpy(output).reshape(-1).tolist()
    return [value.decode() if isinstance(value, bytes) else value for value in found]


def refused(call: Callable[[], Any]) -> dict[str, str]:
    """How a call fails: its status, its message, and the details for whoever can read them."""
    try:
        call()
    except InferenceServerException as error:
        failed: Any = error.__context__  # the client keeps no more of gRPC's own error than its text
        trailers = dict(failed.trailing_metadata() or ())
        details = base64.b64encode(trailers.get("grpc-status-details-bin", b"")).decode()
        return {"status": error.status(), "message": error.message(), "details": details}
    return {"status": "OK", "message": "", "details": ""}


def about_the_server(client: Any) -> Any:
    """Liveness, readiness, metadata."""
    metadata = client.get_server_metadata()
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "name": metadata.name,
        "extensions": list(metadata.extensions),
        "json": client.get_server_metadata(as_json=True)["name"],
        "headers": client.is_server_live(headers={"x-team": "billing"}),
    }


def about_models(client: Any) -> Any:
    """Readiness by version, number and label; metadata; configuration; index; statistics."""
    metadata = client.get_model_metadata("columns")
    config = client.get_model_config("columns").config
    return {
        "ready": [client.is_model_ready("minutes", version) for version in ("", "2", "champion")],
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": {item.name: [item.datatype, list(item.shape)] for item in metadata.inputs},
        "outputs": {item.name: item.datatype for item in metadata.outputs},
        "max_batch_size": config.max_batch_size,
        "config_inputs": {item.name: [item.data_type, list(item.dims)] for item in config.input},
        "decoupled": config.model_transaction_policy.decoupled,
        "index": [[m.name, m.version, m.state] for m in client.get_model_repository_index().models],
        "index_json": len(client.get_model_repository_index(as_json=True)["models"]),
        "statistics": sorted([m.name, m.version] for m in client.get_inference_statistics().model_stats),
        "statistics_of_one": [m.name for m in client.get_inference_statistics("columns", "1").model_stats],
    }


def raw_by_name(client: Any) -> Any:
    """Every datatype, raw, as a request-time input: what the graph was given, as it repeats it."""
    found = {}
    for datatype, (name, given) in DATATYPES.items():
        inputs = [tensor(other, *ORDINARY[other]) for other in ORDINARY if other != name]
        result = client.infer("columns", [*inputs, tensor(name, datatype, given)])
        found[datatype] = [given, values(result, f"{name}_out")]
    return found


def raw_by_graph(client: Any) -> Any:
    """Every datatype that a graph takes, raw, as its own inputs, and back."""
    result = client.infer("columns", [tensor(name, *given) for name, given in GRAPH.items()], request_id="all")
    response = result.get_response()
    outputs = {item.name: item.datatype for item in response.outputs}
    pairs = {name: [given, values(result, name.replace("_in", "_out"))] for name, (_, given) in GRAPH.items()}
    return {"id": response.id, "version": response.model_version, "outputs": outputs, "values": pairs}


def typed(address: str) -> Any:
    """Every datatype in typed contents, which this client's stubs can send: the score."""
    found = {}
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for datatype in TYPED:
            name, given = DATATYPES[datatype]
            request = service_pb2.ModelInferRequest(model_name="columns")
            for other, (kind, elements) in {**ORDINARY, name: (datatype, given)}.items():
                item = request.inputs.add(name=other, datatype=kind, shape=[2, 1])
                encoded = [element.encode() if isinstance(element, str) else element for element in elements]
                getattr(item.contents, TYPED[kind]).extend(encoded)
            request.outputs.add(name=f"{name}_out")
            found[datatype] = [given, values(triton.InferResult(stub.ModelInfer(request)), f"{name}_out")]
    return found


def answers(client: Any) -> Any:
    """Keys, versions by number and label, wanted outputs, options of a call, and whence an answer comes."""
    result = client.infer("minutes", key("S7", "nobody"), request_id="r1", outputs=[triton.InferRequestedOutput("y")])
    response = result.get_response()
    parameters = {name: p.string_param or p.int64_param for name, p in response.parameters.items()}
    options: dict[str, Any] = {
        "plain": {},
        "number": {"model_version": "2"},
        "label": {"model_version": "champion"},
        "gzip": {"compression_algorithm": "gzip"},
        "deflate": {"compression_algorithm": "deflate"},
        "priority": {"priority": 2},
        "timeouts": {"timeout": 5_000_000, "client_timeout": 10.0},
        "headers": {"headers": {"x-team": "billing"}},
        "parameters": {"parameters": {"campaign": "spring"}},
    }
    done: queue.Queue[Any] = queue.Queue()
    client.async_infer("minutes", key("S7"), callback=lambda result, error: done.put((result, error)))
    later, error = done.get(timeout=30)
    return {
        "values": values(result, "y"),
        "arm": parameters["interlock_arm"],
        "flags": parameters["interlock_flags"],
        "defaulted": parameters["interlock_defaulted"],
        "names": sorted(parameters),
        "options": {name: values(client.infer("minutes", key("S7"), **more), "y") for name, more in options.items()},
        "async": [values(later, "y"), error],
    }


def streaming(client: Any) -> Any:
    """A stream, as Triton's decoupled models are called: in order, with an error in the middle, each answer final."""
    done: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: done.put((result, error)), headers={"x-team": "billing"})
    for number in range(20):
        client.async_stream_infer("minutes", key(f"S{number % 10}"), request_id=str(number))
    client.async_stream_infer("nope", key("S1"), request_id="bad")
    client.async_stream_infer("minutes", key("S3"), request_id="last", enable_empty_final_response=True)
    got = [done.get(timeout=30) for _ in range(22)]
    client.stop_stream()
    last = got[21][0].get_response()
    return {
        "values": [values(result, "y")[0] for result, _ in got[:20]],
        "ids": [result.get_response().id for result, _ in got[:20]],
        "error": str(got[20][1]),
        "last": last.id,
        "final": last.parameters["triton_final_response"].bool_param,
    }


async def asynchronous(address: str) -> Any:
    """The client for asyncio."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(5):
            yield {"model_name": "minutes", "inputs": key(f"S{number}"), "request_id": str(number)}

    async with triton_aio.InferenceServerClient(address) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_model_ready("minutes", "champion"),
            "metadata": (await client.get_model_metadata("minutes", as_json=True))["name"],
            "value": values(await client.infer("minutes", key("S7")), "y"),
            "stream": [values(result, "y")[0] async for result, _ in client.stream_infer(requests())],
        }


def errors(client: Any) -> Any:
    """Each kind of mistake that this client lets a caller make."""
    shared = triton.InferInput("single", [1, 1], "FP32")
    shared.set_shared_memory("region", 4)
    top = triton.InferRequestedOutput("y", class_count=2)
    into = triton.InferRequestedOutput("y")
    into.set_shared_memory("region", 4)
    by_graph = {name: tensor(name, *given) for name, given in GRAPH.items()}
    ordinary = {name: tensor(name, *given) for name, given in ORDINARY.items()}
    infer = client.infer
    calls: dict[str, Callable[[], Any]] = {
        "unknown model": lambda: infer("nope", key("S1")),
        "unknown model is not ready": lambda: client.is_model_ready("nope"),
        "metadata of an unknown model": lambda: client.get_model_metadata("nope"),
        "config of an unknown model": lambda: client.get_model_config("nope"),
        "statistics of an unknown model": lambda: client.get_inference_statistics("nope"),
        "a version that does not answer": lambda: infer("minutes", key("S1"), model_version="1"),
        "canary without a rollout": lambda: infer("minutes", key("S1"), model_version="canary"),
        "word as a version": lambda: infer("minutes", key("S1"), model_version="latest"),
        "metadata of a version that does not answer": lambda: client.get_model_metadata("minutes", "1"),
        "missing input": lambda: infer("columns", list(by_graph.values())[1:]),
        "unexpected input": lambda: infer("columns", [*by_graph.values(), tensor("z", "FP32", [1.0, 2.0])]),
        "unknown output": lambda: infer("minutes", key("S1"), outputs=[triton.InferRequestedOutput("q")]),
        "empty key": lambda: infer("minutes", key("")),
        "too many rows": lambda: infer("minutes", key(*["S1"] * 257)),
        "half precision for a graph's float32": lambda: infer(
            "columns", list({**by_graph, "single_in": tensor("single_in", "FP16", [1.0, 2.0])}.values())
        ),
        "int32 for a graph's int64": lambda: infer(
            "columns", list({**by_graph, "whole_in": tensor("whole_in", "INT32", [1, 2])}.values())
        ),
        "bfloat16, which no model takes": lambda: infer(
            "columns", list({**ordinary, "single": tensor("single", "BF16", [1.0, 2.0])}.values())
        ),
        "an unsigned number above int64": lambda: infer(
            "columns", list({**ordinary, "whole": tensor("whole", "UINT64", [1, 2**64 - 1])}.values())
        ),
        "texts for a number": lambda: infer(
            "columns", list({**ordinary, "single": tensor("single", "BYTES", ["1", "2"])}.values())
        ),
        "bytes that are no text": lambda: infer("minutes", [_bytes(b"\xff")]),
        "input in shared memory": lambda: infer("columns", [shared]),
        "output in shared memory": lambda: infer("minutes", key("S1"), outputs=[into]),
        "classification": lambda: infer("minutes", key("S1"), outputs=[top]),
        "load": lambda: client.load_model("minutes"),
        "unload": lambda: client.unload_model("minutes"),
        "system shared memory": lambda: client.register_system_shared_memory("region", "/region", 4),
        "cuda shared memory": client.get_cuda_shared_memory_status,
        "trace settings": client.get_trace_settings,
        "log settings": client.get_log_settings,
    }
    return {name: refused(call) for name, call in calls.items()}


def _bytes(value: bytes) -> Any:
    given = triton.InferInput("entity_id", [1], "BYTES")
    given.set_data_from_numpy(np.array([value], object))
    return given


def main(address: str) -> None:
    """Everything, in one report."""
    with triton.InferenceServerClient(address) as client:
        report = {
            "server": about_the_server(client),
            "models": about_models(client),
            "raw_by_name": raw_by_name(client),
            "raw_by_graph": raw_by_graph(client),
            "typed": typed(address),
            "answers": answers(client),
            "streaming": streaming(client),
            "asynchronous": asyncio.run(asynchronous(address)),
            "errors": errors(client),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
