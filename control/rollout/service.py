"""RolloutService: promotion, retirement and status on the wire."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

from typing import Final

from grpc import ServicerContext
from sqlalchemy import Connection

from control.rollout.hub import Gateway, Hub
from control.rollout.lifecycle import Stage
from control.rollout.promotion import check_promotable, promotion_moves, retired
from control.rollout.records import (
    approvers,
    find_version,
    model_names,
    newest_batch,
    newest_batches,
    save,
    stage_change,
    versions_in,
    views_by_hash,
)
from control.rollout.routes import RouteTable, derive, pinned_hashes
from control.rollout.status import problems_of
from control.rollout.version import VersionRecord
from control.security import caller
from control.store.idempotency import once
from control.store.store import Store, Unit
from control.v1 import rollout_pb2 as pb
from control.v1.rollout_pb2_grpc import RolloutServiceServicer
from gateway.contract.errors import Fault, Reason

LONGEST_WAIT_MS: Final = 600_000
LONGEST_REASON: Final = 2000
HOLDERS: Final = frozenset({Stage.CHAMPION, Stage.STANDBY})


class RolloutService(RolloutServiceServicer):
    """Decides, commits, and publishes what it committed."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub

    def PromoteVersion(self, request: pb.PromoteVersionRequest, context: ServicerContext) -> pb.PromoteVersionResponse:
        """Makes the version champion, then waits outside of the commit for gateways to confirm."""
        if not 0 <= request.wait_ms <= LONGEST_WAIT_MS:
            raise Fault(Reason.ARGUMENT_INVALID, f"wait_ms: 0 to {LONGEST_WAIT_MS}, in milliseconds")

        def change(unit: Unit) -> bytes:
            revision = promote(unit, request.model, request.version)
            return pb.PromoteVersionResponse(revision=revision).SerializeToString()

        # How long to wait is no part of what is changed.
        content = pb.PromoteVersionRequest(model=request.model, version=request.version).SerializeToString()
        actor = caller(context).actor
        answer = once(self._store, actor, request.idempotency_key, "PromoteVersion", content, change)
        self.publish()
        response = pb.PromoteVersionResponse.FromString(answer)
        found = self._hub.wait_confirmed(response.revision, request.wait_ms / 1000, context.is_active)
        response.confirmed.extend(found.confirmed)
        response.pending.extend(found.pending)
        return response

    def RetireVersion(self, request: pb.RetireVersionRequest, context: ServicerContext) -> pb.RetireVersionResponse:
        """Takes a version that does not answer out of use for good."""
        reason = request.reason.strip()
        if len(reason) > LONGEST_REASON:
            raise Fault(Reason.ARGUMENT_INVALID, f"reason: at most {LONGEST_REASON} characters, this has {len(reason)}")

        def change(unit: Unit) -> bytes:
            record = find_version(unit.connection, request.model, request.version)
            gone = retired(record)
            sequence = unit.record("version.retire", record.subject, {"digest": record.digest, "reason": reason})
            save(unit.connection, gone._replace(stage_sequence=sequence))
            return pb.RetireVersionResponse(sequence=sequence).SerializeToString()

        content = request.SerializeToString(deterministic=True)
        actor = caller(context).actor
        return pb.RetireVersionResponse.FromString(
            once(self._store, actor, request.idempotency_key, "RetireVersion", content, change)
        )

    def GetStatus(self, request: pb.GetStatusRequest, context: ServicerContext) -> pb.GetStatusResponse:
        """The records of one snapshot beside the gateways' last reports."""
        gateways = self._hub.gateways()
        with self._store.read() as connection:
            names = model_names(connection, request.model)
            holders = {(record.model, record.stage): record for record in versions_in(connection, HOLDERS)}
            return pb.GetStatusResponse(
                revision=_table(connection, self._store.history_id).revision,
                models=[_model_status(connection, name, holders, gateways) for name in names],
                gateways=[_gateway_status(gateway) for gateway in gateways],
                feature_sequence=newest_batch(connection),
            )

    def publish(self) -> None:
        """Hands the newest table to the gateways."""
        self._hub.publish(current_table(self._store))


def current_table(store: Store) -> RouteTable:
    """The route table of what is committed now."""
    with store.read() as connection:
        return _table(connection, store.history_id)


def promote(unit: Unit, model: str, version: int) -> int:
    """Makes the version champion within the unit and returns the revision."""
    record = find_version(unit.connection, model, version)
    hashes = pinned_hashes([record])
    approved_by = approvers(unit.connection, record)
    feature_sequence = check_promotable(record, approved_by, newest_batches(unit.connection, hashes))
    holders = versions_in(unit.connection, HOLDERS, model)
    facts = {
        "digest": record.digest,
        "approved_by": approved_by,
        "instead_of": [holder.version for holder in holders if holder.stage is Stage.CHAMPION],
        "feature_sequence": feature_sequence,
    }
    sequence = unit.record("version.promote", record.subject, facts)
    *superseded, promoted = promotion_moves(record, holders)
    for move in superseded:
        save(unit.connection, move._replace(stage_sequence=sequence))
    save(unit.connection, promoted._replace(stage_sequence=sequence, feature_sequence=feature_sequence))
    return sequence


def _table(connection: Connection, history_id: str) -> RouteTable:
    champions = versions_in(connection, frozenset({Stage.CHAMPION}))
    return derive(history_id, champions, views_by_hash(connection, pinned_hashes(champions)))


def _model_status(
    connection: Connection,
    model: str,
    holders: dict[tuple[str, Stage], VersionRecord],
    gateways: list[Gateway],
) -> pb.ModelStatus:
    champion = holders.get((model, Stage.CHAMPION))
    standby = holders.get((model, Stage.STANDBY))
    status = pb.ModelStatus(
        model=model,
        standby_version=standby.version if standby else 0,
        problems=problems_of(model, champion, gateways),
    )
    if champion:
        change = stage_change(connection, champion)
        status.champion_version = champion.version
        status.since_ns, status.promoted_by = change.time_ns, change.actor
        status.approved_by.extend(approvers(connection, champion))
    return status


def _gateway_status(gateway: Gateway) -> pb.GatewayStatus:
    return pb.GatewayStatus(
        gateway_id=gateway.gateway_id,
        revision=gateway.report.revision,
        feature_sequence=gateway.report.feature_sequence,
        report_age_ms=gateway.age_ms,
        problems=gateway.report.problems,
    )
