"""DataPlaneService: route tables, artifacts and feature batches down to gateways, confirmations up."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import BinaryIO, Final, Protocol

import grpc

from control.features.log import Batch, FeatureLog
from control.rollout.hub import Hub, Session
from control.rollout.listening import Listener
from control.rollout.routes import ModelRoute, RouteTable
from control.security import caller
from control.store.store import Store
from control.v1 import data_plane_pb2 as pb
from control.v1.data_plane_pb2_grpc import DataPlaneServiceServicer
from gateway.contract.errors import Fault, Reason

CHUNK_BYTES: Final = 1 << 20
FORMAT: Final = 1
GATEWAY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOOK_S: Final = 1.0
"""How often a stream without news looks whether its gateway is still there."""


class Artifacts(Protocol):
    """Where the bytes of artifacts are."""

    def open(self, sha256: str) -> BinaryIO:
        """The artifact's bytes; raises a fault where there is none."""


class DataPlaneService(DataPlaneServiceServicer):
    """Serves gateways; what they may get is in the route table, the artifact directory and the feature log."""

    def __init__(self, hub: Hub, store: Store, artifacts: Artifacts, feature_log: FeatureLog) -> None:
        self._hub = hub
        self._store = store
        self._history_id = store.history_id
        self._artifacts = artifacts
        self._feature_log = feature_log

    def WatchRoutes(
        self, request_iterator: Iterator[pb.WatchRoutesRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.WatchRoutesResponse]:
        """The whole table now and after every change, for as long as the gateway goes on reporting."""
        first = next(request_iterator, None)
        if first is None or not GATEWAY_ID.fullmatch(first.gateway_id):
            raise Fault(
                Reason.ARGUMENT_INVALID, "gateway_id: 1 to 64 letters, digits and . _ -, in the first message at least"
            )
        with self._hub.session(first.gateway_id) as session:
            listener = Listener(self._store, self._hub, session, caller(context).actor)
            listener.take(first)
            reader = _Reader(self._hub, session, request_iterator, listener)
            reader.start()
            context.add_callback(lambda: self._hub.end(session))
            for offer in self._hub.offers(session):
                acknowledged = [pb.Acknowledgement(**one._asdict()) for one in offer.recorded]
                yield pb.WatchRoutesResponse(table=table_message(offer.table), acknowledged=acknowledged)
            reader.raise_fault()

    def FetchArtifact(
        self, request: pb.FetchArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.FetchArtifactResponse]:
        """The artifact, a chunk at a time."""
        with self._artifacts.open(request.sha256) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield pb.FetchArtifactResponse(chunk=chunk)

    def WatchFeatures(
        self, request: pb.WatchFeaturesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchFeaturesResponse]:
        """The feature log from a number on; refused for an online store that belongs to another history."""
        if request.history_id and request.history_id != self._history_id:
            raise Fault(
                Reason.HISTORY_MISMATCH,
                f"the gateway's online store belongs to history {request.history_id[:80]}, this control plane to "
                f"{self._history_id}; if this one is right, `interlock gateway accept-history` on its host takes it",
            )
        sent = max(request.from_sequence, 1) - 1
        while context.is_active() and not self._hub.closed:
            if self._feature_log.wait(sent, LOOK_S):
                for batch in self._feature_log.read(sent + 1):
                    yield pb.WatchFeaturesResponse(batch=_batch(batch), history_id=self._history_id)
                    sent = batch.sequence


class _Reader(threading.Thread):
    """Takes a gateway's reports while its tables are sent, and ends the session with the stream."""

    def __init__(
        self, hub: Hub, session: Session, requests: Iterator[pb.WatchRoutesRequest], listener: Listener
    ) -> None:
        super().__init__(name=f"reports of {session.gateway_id}", daemon=True)
        self._listener = listener
        self._hub = hub
        self._session = session
        self._requests = requests
        self._fault: Exception | None = None

    def run(self) -> None:
        """Reads until the stream ends, the gateway goes away, or its token is no longer good."""
        try:
            for request in self._requests:
                self._listener.take(request)
        except grpc.RpcError:
            pass  # the gateway has gone
        except Exception as error:
            self._fault = error
        finally:
            self._hub.end(self._session)
            self._listener.note_gateway()

    def raise_fault(self) -> None:
        """Raises in the call's thread what ended the reading, if that was no goodbye."""
        if self._fault is not None:
            raise self._fault


def table_message(table: RouteTable) -> pb.RouteTable:
    """The table on the wire."""
    return pb.RouteTable(
        format=FORMAT,
        history_id=table.history_id,
        revision=table.revision,
        models=[_route(route) for route in table.models],
        views=[pb.PinnedView(**view._asdict()) for view in table.views],
    )


def _route(route: ModelRoute) -> pb.ModelRoute:
    return pb.ModelRoute(
        model=route.model,
        champion=pb.ServedVersion(**route.champion._asdict()),
        kept=[pb.ServedVersion(**former._asdict()) for former in route.kept],
        stopped_because=route.stopped_because,
    )


def _batch(batch: Batch) -> pb.FeatureBatch:
    return pb.FeatureBatch(
        sequence=batch.sequence,
        view_hash=batch.view_hash,
        definition_json=batch.definition_json,
        additions=[pb.DictionaryAddition(**addition._asdict()) for addition in batch.additions],
        keys=batch.keys,
        rows=batch.rows,
    )
