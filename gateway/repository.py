"""The Open Inference Protocol's calls about models: what is served, what it takes, how often it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version as distribution_version
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError, Message

from gateway.assignment import Snapshot, choose, served_by
from gateway.conform import MAX_ROWS
from gateway.contract.errors import Fault, Reason
from gateway.contract.tensors import GRAPH_DTYPES, GraphTensor
from gateway.servable import Servable
from gateway.transport import Reply
from gateway.v1 import inference_pb2 as pb
from gateway.wire.inference import SERVICE
from gateway.wire.status import internal, refusal
from gateway.wire.tensors import DATATYPES, DTYPES

PLATFORM: Final = "onnxruntime_onnx"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
DATA_TYPES: Final[Mapping[str, int]] = {
    "BOOL": pb.DATA_TYPE_BOOL,
    "UINT8": pb.DATA_TYPE_UINT8,
    "UINT16": pb.DATA_TYPE_UINT16,
    "UINT32": pb.DATA_TYPE_UINT32,
    "UINT64": pb.DATA_TYPE_UINT64,
    "INT8": pb.DATA_TYPE_INT8,
    "INT16": pb.DATA_TYPE_INT16,
    "INT32": pb.DATA_TYPE_INT32,
    "INT64": pb.DATA_TYPE_INT64,
    "FP16": pb.DATA_TYPE_FP16,
    "FP32": pb.DATA_TYPE_FP32,
    "FP64": pb.DATA_TYPE_FP64,
    "BYTES": pb.DATA_TYPE_STRING,
}
NS_PER_MS: Final = 1_000_000


class Served(Protocol):
    """Where the calls look."""

    @property
    def snapshot(self) -> Snapshot:
        """What is served now."""

    def ready(self) -> bool:
        """Whether inference calls are taken."""

    def problem(self, model: str) -> str:
        """What keeps a model from being loaded; empty where nothing does."""

    def totals(self) -> Mapping[str, Any]:
        """What the observer has added up."""


class Repository:
    """Answers the calls about models, each from its bytes to the reply's."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def methods(self) -> dict[str, Callable[[bytes], Reply]]:
        """The calls by their full names. None of them raises."""
        calls: tuple[tuple[type[Message], Callable[[Any], Message]], ...] = (
            (pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            (pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=self._served.ready())),
            (pb.ServerMetadataRequest, _server_metadata),
            (pb.ModelReadyRequest, self._model_ready),
            (pb.ModelMetadataRequest, self._model_metadata),
            (pb.ModelConfigRequest, self._model_config),
            (pb.ModelStatisticsRequest, self._model_statistics),
            (pb.RepositoryIndexRequest, self._index),
            (pb.RepositoryModelLoadRequest, _loading_is_governed),
            (pb.RepositoryModelUnloadRequest, _loading_is_governed),
        )
        return {
            f"/{SERVICE}/{kind.DESCRIPTOR.name.removesuffix('Request')}": _on_bytes(kind, answer)
            for kind, answer in calls
        }

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._chosen(request)
            if request.name in self._served.snapshot.stopped:
                return pb.ModelReadyResponse(ready=False)
        except Fault as fault:
            if fault.reason is not Reason.NOT_READY:
                raise
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        servable = self._chosen(request)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[str(servable.served.version)],
            platform=PLATFORM,
            inputs=map(_metadata, servable.inputs),
            outputs=map(_metadata, servable.outputs),
        )

    def _model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        servable = self._chosen(request)
        config = pb.ModelConfig(name=request.name, platform=PLATFORM, backend="onnxruntime", max_batch_size=MAX_ROWS)
        config.input.extend(pb.ModelInput(**_config(item)) for item in servable.inputs)
        config.output.extend(pb.ModelOutput(**_config(item)) for item in servable.outputs)
        return pb.ModelConfigResponse(config=config)

    def _model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        totals = self._served.totals()
        if request.name:
            wanted = [self._chosen(request)]
        else:
            wanted = [one for route in self._served.snapshot.routes.values() for one in served_by(route)]
        return pb.ModelStatisticsResponse(model_stats=[_statistics(servable, totals) for servable in wanted])

    def _index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        snapshot = self._served.snapshot
        found = [
            pb.RepositoryIndexResponse.ModelIndex(name=model, version=str(servable.served.version), state="READY")
            for model, route in snapshot.routes.items()
            for servable in served_by(route)
        ]
        for model in () if request.ready else snapshot.loading:
            problem = self._served.problem(model)
            state = "UNAVAILABLE" if problem else "LOADING"
            found.append(pb.RepositoryIndexResponse.ModelIndex(name=model, state=state, reason=problem))
        return pb.RepositoryIndexResponse(models=sorted(found, key=lambda one: (one.name, one.version)))

    def _chosen(self, request: Any) -> Servable:
        return choose(self._served.snapshot, request.name, request.version)[1]


def _on_bytes(kind: type[Message], answer: Callable[[Any], Message]) -> Callable[[bytes], Reply]:
    def call(request: bytes) -> Reply:
        try:
            return Reply(answer(kind.FromString(request)).SerializeToString())
        except DecodeError:
            name = kind.DESCRIPTOR.name
            message = f"the {len(request)} bytes are no {name} of the Open Inference Protocol"
            return refusal(Fault(Reason.MALFORMED_REQUEST, message))
        except Fault as fault:
            return refusal(fault)
        except Exception as error:  # a fault of ours: the caller learns an id, and nothing else
            return refusal(internal(error))

    return call


def _server_metadata(_: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name="interlock", version=distribution_version("interlock"), extensions=EXTENSIONS)


def _loading_is_governed(request: Any) -> Message:
    # KServe's clients send the model's name in the field that Triton's call the repository.
    model = request.model_name or request.repository_name
    raise Fault(
        Reason.LOADING_GOVERNED,
        f"what is loaded of {model[:100]!r} is decided by the control plane: "
        "`interlock model promote` makes an approved version answer, `interlock model retire` ends the use of one",
    )


def _metadata(item: GraphTensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=item.name, datatype=_datatype(item), shape=_shape(item))


def _config(item: GraphTensor) -> dict[str, Any]:
    return {"name": item.name, "data_type": DATA_TYPES[_datatype(item)], "dims": _shape(item)[1:]}


def _datatype(item: GraphTensor) -> str:
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    if item.type in GRAPH_DTYPES:
        return DATATYPES[next(dtype for dtype in DTYPES.values() if dtype == GRAPH_DTYPES[item.type])]
    return {"float16": "FP16"}.get(kind, kind.upper())


def _shape(item: GraphTensor) -> list[int]:
    """The first dimension is the rows', whatever a graph exported with a fixed batch says."""
    return [size if index and isinstance(size, int) else -1 for index, size in enumerate(item.shape)]


def _statistics(servable: Servable, totals: Mapping[str, Any]) -> pb.ModelStatistics:
    model, version = servable.served.model, servable.served.version
    runs, last_ns, *stages_ns = _of_version(totals.get("runs", ()), model, version) or [0] * 8
    _, _, features_ns, infer_ns, record_ns, _ = stages_ns
    results = [row for row in totals.get("rows", ()) if row[:2] == [model, version]]
    ok = sum(count for *_, result, count in results if result == "ok")
    failed = sum(count for *_, count in results) - ok
    return pb.ModelStatistics(
        name=model,
        version=str(version),
        last_inference=last_ns // NS_PER_MS,
        inference_count=ok,
        execution_count=runs,
        inference_stats=pb.InferStatistics(
            success=pb.StatisticDuration(count=ok, ns=sum(stages_ns)),
            fail=pb.StatisticDuration(count=failed),
            queue=pb.StatisticDuration(),
            compute_input=pb.StatisticDuration(count=runs, ns=features_ns),
            compute_infer=pb.StatisticDuration(count=runs, ns=infer_ns),
            compute_output=pb.StatisticDuration(count=runs, ns=record_ns),
        ),
    )


def _of_version(rows: Iterable[list[Any]], model: str, version: int) -> list[int]:
    return next((figures for name, number, *figures in rows if (name, number) == (model, version)), [])
