"""DataPlaneService: route tables, artifacts and feature batches down to gateways, confirmations up."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from hashlib import blake2b
from typing import BinaryIO, Final, Protocol

import grpc

from control.features.log import Batch, FeatureLog
from control.rollout.canaries import Canary, Shadow
from control.rollout.controller import Controller
from control.rollout.hub import Hub, Session
from control.rollout.listening import Listener
from control.rollout.rollout_records import EvidenceRow, Head
from control.rollout.routes import ModelRoute, RouteTable
from control.rollout.tally import FIRST_BAD
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

    def __init__(
        self, hub: Hub, store: Store, artifacts: Artifacts, feature_log: FeatureLog, controller: Controller
    ) -> None:
        self._hub = hub
        self._controller = controller
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

    def ReportEvidence(
        self, request: pb.ReportEvidenceRequest, context: grpc.ServicerContext
    ) -> pb.ReportEvidenceResponse:
        """Keeps what a gateway counted, and has it judged."""
        if not GATEWAY_ID.fullmatch(request.gateway_id) or request.first_number < 1:
            raise Fault(Reason.ARGUMENT_INVALID, "gateway_id and first_number: both must be given, the latter from 1")
        head = Head(
            gateway_id=request.gateway_id,
            rows_lost=request.rows_lost,
            step=request.step,
            shadow_json=_shadow_json(request.shadow) if request.HasField("shadow") else "{}",
        )
        kept = self._controller.report(request.rollout_id, head, request.first_number, evidence_rows(request))
        return pb.ReportEvidenceResponse(kept_number=kept)

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


def evidence_rows(request: pb.ReportEvidenceRequest) -> list[EvidenceRow]:
    """The units of a report; where requests are the unit, each is named by who told it and its number."""
    return [
        EvidenceRow(
            kind=one.kind,
            metric=one.bad if one.kind == FIRST_BAD else 0,
            step=0 if one.kind == FIRST_BAD else one.step,
            unit=f"{one.entity_hash:016x}" if one.entity_hash else _told(request.gateway_id, number),
            challenger=one.challenger,
            weight_bps=one.weight_bps,
            bad=one.bad,
            score_bin=one.score_bin,
        )
        for number, one in enumerate(request.units, request.first_number)
    ]


def _told(gateway_id: str, number: int) -> str:
    return blake2b(f"{gateway_id}/{number}".encode(), digest_size=8).hexdigest()


def _shadow_json(report: pb.ShadowReport) -> str:
    facts = {field.name: getattr(report, field.name) for field in report.DESCRIPTOR.fields}
    lists = {name: list(facts[name]) for name in ("slow_shadow", "slow_other", "score_edges")}
    return json.dumps(facts | lists | {"figures_json": json.loads(report.figures_json or "{}")})


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
        canary=None if route.canary is None else _canary(route.canary),
        shadows=[_shadow(shadow) for shadow in route.shadows],
        stopped_because=route.stopped_because,
    )


def _canary(canary: Canary) -> pb.Canary:
    facts = canary._asdict() | {
        "challenger": pb.ServedVersion(**canary.challenger._asdict()),
        "control": pb.ServedVersion(**canary.control._asdict()),
        "guards": [pb.Guard(**guard._asdict()) for guard in canary.guards],
    }
    return pb.Canary(**facts)


def _shadow(shadow: Shadow) -> pb.Shadow:
    return pb.Shadow(**shadow._asdict() | {"version": pb.ServedVersion(**shadow.version._asdict())})


def _batch(batch: Batch) -> pb.FeatureBatch:
    return pb.FeatureBatch(
        sequence=batch.sequence,
        view_hash=batch.view_hash,
        definition_json=batch.definition_json,
        additions=[pb.DictionaryAddition(**addition._asdict()) for addition in batch.additions],
        keys=batch.keys,
        rows=batch.rows,
    )
