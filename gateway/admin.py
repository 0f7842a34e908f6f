"""The admin port: health, and what an operator asks of this gateway. It shares nothing with the callers' port."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.board import Boards
from gateway.by_hand import step_back
from gateway.config import Config
from gateway.contract.alerts import Alert, alert
from gateway.contract.errors import Fault, Reason
from gateway.features.store import FoundRow, OnlineStore
from gateway.ports import refuse_listener, taken
from gateway.reflection import ADMINISTRATION, add_reflection
from gateway.security import check_bearer, own_token
from gateway.stepback import Withdrawal
from gateway.transport.grpcio import STATUS
from gateway.v1 import admin_pb2 as pb
from gateway.v1 import admin_pb2_grpc
from gateway.wire.status import internal, refusal
from gateway.withdrawals import Withdrawals

SERVICES: Final = ("", "gateway.v1.ScoringService")
THREADS: Final = 4
LONGEST_WAIT_MS: Final = 60_000
LOOK_S: Final = 0.02
OPTIONS: Final = [
    ("grpc.so_reuseport", 0),  # a second process on this port is a mistake, and must show
    ("grpc.max_receive_message_length", 64 << 10),
    ("grpc.max_allowed_incoming_connections", 64),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 32),
    ("grpc.max_metadata_size", 8_192),
    ("grpc.absolute_max_metadata_size", 8_192),
    ("grpc.http2.min_ping_interval_without_data_ms", 60_000),
]
T = TypeVar("T")


class AdminServer:
    """Serves the admin port, from threads of its own."""

    def __init__(self, config: Config) -> None:
        self._health = health.HealthServicer()
        self._serving: bool | None = None
        self.begin_anew = threading.Event()
        """Set when an operator has accepted another history."""
        self._server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS, maximum_concurrent_rpcs=64)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(config, self.begin_anew), self._server)
        add_reflection(self._server, ADMINISTRATION)
        channelz.add_channelz_servicer(self._server)
        refuse_listener("admin_address", config.admin_address)
        try:
            port = self._server.add_insecure_port(config.admin_address)
        except RuntimeError as error:
            raise taken("admin_address", config.admin_address, "the address is in use or not of this host") from error
        self.address = f"{config.admin_address.rpartition(':')[0]}:{port}"
        self.report(serving=False)
        self._server.start()

    def report(self, *, serving: bool) -> None:
        """Says on the health service whether the gateway takes calls."""
        if serving is self._serving:
            return
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in SERVICES:
            self._health.set(service, status)

    def drain(self) -> None:
        """Says NOT_SERVING from now on, whatever is reported."""
        self._health.enter_graceful_shutdown()

    def stop(self) -> None:
        """Ends calls and closes the port."""
        self._server.stop(0.5).wait()


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Answers operators who bear the gateway's own token."""

    def __init__(self, config: Config, begin_anew: threading.Event) -> None:
        self._config = config
        self._begin_anew = begin_anew
        self._store = OnlineStore(config.features_path)
        self._one_reader = threading.Lock()

    def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:  # noqa: ARG002, D102, N802
        return self._answer(context, self._status)

    def GetFeatures(self, request: pb.GetFeaturesRequest, context: Any) -> pb.GetFeaturesResponse:  # noqa: D102, N802
        return self._answer(context, lambda: self._features(request.entity, request.key))

    def StepBack(self, request: pb.StepBackRequest, context: Any) -> pb.StepBackResponse:  # noqa: D102, N802
        return self._answer(context, lambda: self._step_back(request))

    def AcceptHistory(self, request: pb.AcceptHistoryRequest, context: Any) -> pb.AcceptHistoryResponse:  # noqa: D102, N802
        return self._answer(context, lambda: self._accept(request.history_id))

    def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:  # noqa: ARG002, D102, N802
        return self._answer(context, _drain)

    def _answer(self, context: Any, work: Callable[[], T]) -> T:
        """Checks the token and does the work; what goes wrong becomes a status of the catalogue."""
        try:
            check_bearer(context.invocation_metadata(), self._token())
            return work()
        except Fault as fault:
            reply = refusal(fault)
        except Exception as error:  # whatever it is, the caller learns an id and nothing else
            reply = refusal(internal(error))
        context.set_trailing_metadata((("grpc-status-details-bin", reply.details),))
        context.abort(STATUS[reply.code], reply.message)
        raise AssertionError(reply.code)  # abort has raised

    def _token(self) -> str:
        try:
            return own_token(self._config.token_file, self._config.data)
        except FileNotFoundError:
            return ""

    def _status(self) -> pb.GetStatusResponse:
        boards = Boards(self._config.run_path, self._config.worker_count)
        supervisor, said = boards.supervisor(), boards.workers()
        with self._one_reader, self._store as snapshot:
            sequence = snapshot.sequence()
        return pb.GetStatusResponse(
            gateway_id=supervisor["gateway_id"],
            revision=boards.revision(),
            feature_sequence=sequence,
            connected=bool(boards.observer().get("connected")),
            workers=[
                _worker(index, said.get(index), _problems(supervisor, index))
                for index in range(self._config.worker_count)
            ],
            address=supervisor["address"],
            metrics_address=supervisor["metrics_address"],
            lake=_lake(supervisor["no_lake"], boards.recorder()),
            withdrawn=[_withdrawn(one) for one in Withdrawals(self._config.data).read()],
            history_id=str(boards.observer().get("history_id", "")),
            refused_history_id=str(boards.observer().get("refused_history_id", "")),
        )

    def _step_back(self, request: pb.StepBackRequest) -> pb.StepBackResponse:
        """Withdraws durably, then waits until every worker that takes calls says that it answers accordingly."""
        done = step_back(self._config, request.model, request.to_version, request.actor, request.reason)
        wanted = max((one.number for one in done.withdrawn), default=0)
        boards = Boards(self._config.run_path, self._config.worker_count)
        deadline = time.monotonic() + min(max(request.wait_ms, 0), LONGEST_WAIT_MS) / 1000
        while True:
            confirmed = [said["withdrawal"] >= wanted for said in boards.workers().values() if said["ready"]]
            if all(confirmed) or time.monotonic() > deadline:
                break
            time.sleep(LOOK_S)
        return pb.StepBackResponse(
            withdrawn=[_withdrawn(one) for one in done.withdrawn],
            answers=done.answers.version,
            confirmed=sum(confirmed),
            pending=len(confirmed) - sum(confirmed),
        )

    def _accept(self, history_id: str) -> pb.AcceptHistoryResponse:
        """Has the supervisor begin anew, if that history is what the control plane offers at this moment."""
        offered = Boards(self._config.run_path, self._config.worker_count).observer().get("refused_history_id", "")
        if not offered or offered != history_id:
            raise Fault(
                Reason.HISTORY_MISMATCH,
                f"the control plane offers history {offered}, not {history_id[:80]}"
                if offered
                else "the control plane offers no other history than the one that this gateway follows",
            )
        self._begin_anew.set()
        return pb.AcceptHistoryResponse()

    def _features(self, entity: str, key: str) -> pb.GetFeaturesResponse:
        if not entity or not key or len(key.encode()) > 500:
            raise Fault(Reason.ARGUMENT_INVALID, "entity and key must be given, and a key has at most 500 bytes")
        with self._one_reader, self._store as snapshot:
            rows = [_row(found) for found in snapshot.entity_rows(entity, key)]
            return pb.GetFeaturesResponse(rows=rows, feature_sequence=snapshot.sequence())


def _drain() -> pb.DrainResponse:
    os.kill(os.getpid(), signal.SIGTERM)
    return pb.DrainResponse()


def _withdrawn(one: Withdrawal) -> pb.WithdrawnVersion:
    return pb.WithdrawnVersion(
        number=one.number,
        model=one.model,
        version=one.version,
        kind=one.kind,
        actor=one.actor,
        reason=one.reason,
        time_ns=one.time_ns,
        acknowledged=one.recorded_by > 0,
    )


def _problems(supervisor: dict[str, Any], index: int) -> list[str]:
    return [child["problem"] for child in supervisor["children"] if child["role"] == f"worker-{index}"]


def _worker(index: int, said: dict[str, Any] | None, problems: list[str]) -> pb.WorkerStatus:
    known = [problem for problem in problems if problem]
    if said is None:
        return pb.WorkerStatus(
            index=index, problems=known or [alert(Alert.WORKER_SILENT, "it is starting, or does not stir")]
        )
    return pb.WorkerStatus(
        index=index,
        pid=said["pid"],
        revision=said["revision"],
        ready=said["ready"],
        in_flight=said["in_flight"],
        versions=[
            pb.LoadedVersion(
                model=loaded["model"],
                version=loaded["version"],
                revision=loaded["revision"],
                in_flight=loaded["in_flight"],
            )
            for loaded in said["versions"]
        ],
        problems=[*known, *said["problems"]],
        heartbeat_age_ms=(time.monotonic_ns() - said["heartbeat_ns"]) // 1_000_000,
        unjournalled_rows=said["unjournalled"],
    )


def _lake(off: str, said: dict[str, Any]) -> pb.LakeStatus:
    return pb.LakeStatus(
        off=off,
        problems=said.get("problems", ()),
        lost_rows=said.get("lost_rows", 0),
        waiting_rows=said.get("waiting_rows", 0),
        through_ns=said.get("through_ns", 0),
    )


def _row(found: FoundRow) -> pb.StoredRow:
    return pb.StoredRow(
        view=found.view.name,
        view_hash=found.view.digest(),
        event_time_ns=found.event_ns,
        created_time_ns=found.created_ns,
        features=[
            pb.StoredFeature(name=name, value=None if value is None else _text(value))
            for name, value in found.values.items()
        ],
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
