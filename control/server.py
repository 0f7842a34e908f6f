"""The composition root: one store, one hub, one server over all services."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from control.config import Config
from control.features.log import FeatureLog
from control.features.service import FeaturesService
from control.governance.records import find_token
from control.governance.service import GovernanceService
from control.governance.tokens import ensure_first_tokens
from control.guard import Guard
from control.registry.admission.gate import Admission
from control.registry.artifacts import ArtifactStore
from control.registry.service import RegistryService
from control.rollout.controller import Controller
from control.rollout.data_plane import DataPlaneService
from control.rollout.hub import Hub
from control.rollout.service import RolloutService
from control.rollout.tables import current_table
from control.rollout.trial_store import end_trials
from control.security import Token, require_loopback
from control.store.store import Store
from control.telemetry import log
from control.v1 import data_plane_pb2, features_pb2, governance_pb2, registry_pb2, rollout_pb2

if TYPE_CHECKING:
    from control.otlp import Exporter  # an extra

HEALTH_THREADS: Final = 2


def channel_arguments(config: Config) -> list[tuple[str, int]]:
    """What keeps one client from taking the server from the others (names as in grpc's channel_arg_names.h)."""
    return [
        ("grpc.so_reuseport", 0),  # a second server on the port must fail, not take half of the calls
        # The core answers what is larger still; between the two limits the guard answers, with a reason.
        ("grpc.max_receive_message_length", 2 * config.max_message_bytes),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.max_concurrent_streams", 64),
        ("grpc.max_metadata_size", 8_192),
        ("grpc.absolute_max_metadata_size", 8_192),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
        # A gateway that died without a goodbye is noticed within 15 s; keepalive_timeout_ms alone would leave it at 70.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class ControlPlane:
    """A control plane over one data directory, from its construction (which listens) until `stop`.

    Hold the directory by `exclusive` meanwhile. Raises ValueError where it may not or cannot listen.
    """

    def __init__(self, config: Config) -> None:
        require_loopback(config.address)  # also what control.allow_unapproved rests on
        self._config = config
        config.address_path.unlink(missing_ok=True)  # one that was killed left it
        self.store = Store(config.store_path)
        ensure_first_tokens(self.store, time.time_ns(), config.operator_token_path, config.gateway_token_path)
        if not config.allow_unapproved:
            end_trials(self.store, "control")
        self._hub = Hub(current_table(self.store))
        self._controller = Controller(self.store, self._hub, self._publish, config.lake_path)
        self._calls = ThreadPoolExecutor(config.threads, "call")
        self._streams = ThreadPoolExecutor(config.max_streams, "stream")
        self._probes = ThreadPoolExecutor(HEALTH_THREADS, "health")
        self._health = health.HealthServicer(experimental_thread_pool=self._probes)
        self._exporter = exporter(config, self.store.history_id)
        self._server = self._listening()
        self._server.start()
        self._controller.start()
        write_address(config.address_path, self.address)
        log(logging.INFO, "listening", address=self.address, history_id=self.store.history_id)

    def stop(self) -> None:
        """Takes no new calls, ends the streams, finishes calls in flight, at most drain_ms, and closes the store."""
        self._health.enter_graceful_shutdown()
        self._hub.close()
        self._controller.stop()
        self._server.stop(self._config.drain_ms / 1000).wait()
        self._config.address_path.unlink(missing_ok=True)
        for pool in (self._calls, self._streams, self._probes):
            pool.shutdown(wait=False, cancel_futures=True)
        self.store.close()
        if self._exporter:
            self._exporter.stop()
        log(logging.INFO, "stopped")

    def _publish(self) -> None:
        """Hands the newest table to the gateways."""
        self._hub.publish(current_table(self.store))

    def _listening(self) -> grpc.Server:
        config = self._config
        server = grpc.server(
            self._calls,
            options=channel_arguments(config),
            maximum_concurrent_rpcs=config.threads * 8 + config.max_streams,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((self._guard(),))
        host = config.address.rpartition(":")[0]
        try:
            port = server.add_insecure_port(config.address)
        except RuntimeError:
            raise ValueError(
                f"control.address = {config.address}: cannot listen there; is another process using the port?"
            ) from None
        self.address = f"{host}:{port}"
        return server

    def _guard(self) -> Guard:
        guard = Guard(self._find_token, time.time_ns, self._streams, self._config.max_message_bytes)
        guard.observe = self._exporter.take if self._exporter else None
        artifacts = ArtifactStore(self._config.artifacts_path, self._config.max_artifact_bytes)
        feature_log = FeatureLog(self.store)
        data_plane = DataPlaneService(self._hub, self.store, artifacts, feature_log, self._controller)
        registry = RegistryService(self.store, artifacts, Admission())
        guard.serve(_service(registry_pb2, "RegistryService"), registry)
        guard.serve(_service(features_pb2, "FeaturesService"), FeaturesService(self.store, feature_log))
        rollout = RolloutService(self.store, self._hub, self._controller, self._config.allow_unapproved)
        guard.serve(_service(governance_pb2, "GovernanceService"), GovernanceService(self.store, rollout.publish))
        guard.serve(_service(rollout_pb2, "RolloutService"), rollout)
        guard.serve(_service(data_plane_pb2, "DataPlaneService"), data_plane)
        for service in ("", *guard.services):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return guard

    def _find_token(self, token_id: str) -> Token | None:
        with self.store.read() as connection:
            return find_token(connection, token_id)


def exporter(config: Config, instance: str) -> Exporter | None:
    """Who exports metrics and spans; None where nothing is to be. Raises ValueError where the extra is missing."""
    if not config.otlp_endpoint:
        return None
    try:
        from control.otlp import Exporter
    except ModuleNotFoundError as error:
        what = "control.otlp_endpoint is set, and needs the extra `otel`: pip install 'interlock[otel]'"
        raise ValueError(what) from error
    return Exporter(config, instance)


def _service(module: ModuleType, name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
    return found


@contextmanager
def exclusive(data: Path, lock_path: Path) -> Iterator[None]:
    """Holds the data directory for one control plane; raises ValueError where another one has it."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(
                f"control.data = {data}: another control plane (process {lock.read().strip() or 'unknown'}) "
                "uses this directory; stop it first, or name another directory"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def write_address(path: Path, address: str) -> None:
    """Says where the control plane listens, for those who start it on a free port."""
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"address": address, "pid": os.getpid()}))
    fresh.rename(path)
