"""The calls to try on a model, as text that works when it is pasted. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from textwrap import dedent
from typing import Any, Final, NamedTuple

from control.cli.feature_rows import parse_value
from control.cli.score_rows import VALUES, guess
from gateway.contract.document import ModelDocument
from gateway.contract.schema import Dtype
from gateway.contract.tensors import GraphTensor

TENSORS: Final[Mapping[str, tuple[str, str]]] = {
    "tensor(float)": ("FP32", "np.float32"),
    "tensor(double)": ("FP64", "np.float64"),
    "tensor(int64)": ("INT64", "np.int64"),
    "tensor(int32)": ("INT32", "np.int32"),
    "tensor(bool)": ("BOOL", "bool"),
    "tensor(string)": ("BYTES", "object"),
}
"""By the graph's type: the protocol's datatype, and numpy's."""


class Served(NamedTuple):
    """A model that answers, and a row that it takes."""

    address: str
    document: ModelDocument
    graph: Sequence[GraphTensor]
    """The graph's inputs."""
    row: Mapping[str, str]
    """A cell for each input of the document."""


def python_call(served: Served) -> str:
    """By the stubs that Interlock installs."""
    values = ",\n".join(
        f"            {json.dumps(name)}: scoring_pb2.Value({VALUES[dtype]}={value!r})"
        for name, dtype, value in _values(served)
    )
    return dedent("""\
        import grpc
        from gateway.v1 import scoring_pb2, scoring_pb2_grpc

        with grpc.insecure_channel({address}) as channel:
            request = scoring_pb2.ScoreRequest(
                model={model},
                inputs={{
        {values},
                }},
            )
            print(scoring_pb2_grpc.ScoringServiceStub(channel).Score(request, timeout=1))
        """).format(address=json.dumps(served.address), model=json.dumps(served.document.name), values=values)


def triton_call(served: Served) -> str:
    """By tritonclient, with the graph's own tensors."""
    tensors = "\n".join(f"    {line}," for line in _tensors(served))
    return dedent("""\
        import numpy as np
        import tritonclient.grpc as triton

        inputs = []
        for name, datatype, values in [
        {tensors}
        ]:
            inputs.append(triton.InferInput(name, list(values.shape), datatype))
            inputs[-1].set_data_from_numpy(values)

        answer = triton.InferenceServerClient({address}).infer({model}, inputs)
        print(answer.as_numpy({score}), answer.get_response().parameters)
        """).format(
        tensors=tensors,
        address=json.dumps(served.address),
        model=json.dumps(served.document.name),
        score=json.dumps(served.document.output.score),
    )


def reflection_call(served: Served) -> str:
    """By grpcurl, which learns the contract from the port itself."""
    inputs = {name: {VALUES[dtype]: value} for name, dtype, value in _values(served)}
    request = json.dumps({"model": served.document.name, "inputs": inputs}, ensure_ascii=False)
    return f"grpcurl -plaintext -d {shlex.quote(request)} {served.address} gateway.v1.ScoringService/Score"


def shell_call(served: Served, flags: str = "") -> str:
    """By `interlock score`."""
    parts = []
    for name, dtype, _ in _values(served):
        cell = served.row[name]
        parts.append(f"--input {shlex.quote(f'{name}={cell}')}")
        if guess([cell]) is not dtype:
            parts.append(f"--type {name}={dtype}")
    return " ".join(["interlock score", served.document.name, *parts]) + flags


def _values(served: Served) -> Iterator[tuple[str, Dtype, Any]]:
    for item in served.document.requested:
        yield item.request, item.type, parse_value(item.type, served.row[item.request])


def _tensors(served: Served) -> Iterator[str]:
    values = {name: value for name, _, value in _values(served)}
    for tensor in served.graph:
        datatype, numpy_type = TENSORS[tensor.type]
        row: list[Any] = [values[item.request] for item in served.document.requested if item.feeds == tensor.name]
        content = row if len(tensor.shape) == 1 else [row]
        yield f"({json.dumps(tensor.name)}, {json.dumps(datatype)}, np.array({content!r}, {numpy_type}))"
