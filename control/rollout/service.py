"""RolloutService: promotion, retirement and status on the wire."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

from typing import Final

from grpc import ServicerContext
from sqlalchemy import Connection

from control.rollout.hub import Gateway, Hub
from control.rollout.lifecycle import Stage
from control.rollout.promotion import check_promotable, promotion_moves, retired, rollback_moves, rollback_target
from control.rollout.records import (
    all_trials,
    approvers,
    end_trial,
    ever_champions,
    find_version,
    last_change,
    model_names,
    newest_batch,
    newest_batches,
    save,
    stage_change,
    tried_versions,
    versions_in,
    views_by_hash,
)
from control.rollout.routes import RouteTable, derive, kept_versions, pinned_hashes
from control.rollout.status import problems_of
from control.rollout.trial import on_trial
from control.rollout.trial_store import put_on_trial
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
    """Decides, commits, and publishes what it committed.

    `allow_unapproved` lets versions answer on trial.
    """

    def __init__(self, store: Store, hub: Hub, allow_unapproved: bool = False) -> None:
        self._store = store
        self._hub = hub
        self._allow_unapproved = allow_unapproved

    def PromoteVersion(self, request: pb.PromoteVersionRequest, context: ServicerContext) -> pb.PromoteVersionResponse:
        """Makes the version champion, then waits outside of the commit for gateways to confirm."""
        _check_wait(request.wait_ms)

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

    def TryVersion(self, request: pb.TryVersionRequest, context: ServicerContext) -> pb.TryVersionResponse:
        """Puts an unapproved version on trial where that is allowed, then waits for gateways to confirm."""
        _check_wait(request.wait_ms)

        def change(unit: Unit) -> bytes:
            revision = put_on_trial(unit, request.model, request.version, self._allow_unapproved)
            return pb.TryVersionResponse(revision=revision).SerializeToString()

        content = pb.TryVersionRequest(model=request.model, version=request.version).SerializeToString()
        answer = once(self._store, caller(context).actor, request.idempotency_key, "TryVersion", content, change)
        self.publish()
        response = pb.TryVersionResponse.FromString(answer)
        found = self._hub.wait_confirmed(response.revision, request.wait_ms / 1000, context.is_active)
        response.confirmed.extend(found.confirmed)
        response.pending.extend(found.pending)
        return response

    def RollBack(self, request: pb.RollBackRequest, context: ServicerContext) -> pb.RollBackResponse:
        """Makes a former champion answer again, then waits outside of the commit for gateways to confirm."""
        _check_wait(request.wait_ms)
        reason = _checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            return roll_back(unit, request.model, request.to_version, reason).SerializeToString()

        plain = pb.RollBackRequest(model=request.model, to_version=request.to_version, reason=reason)
        actor = caller(context).actor
        content = plain.SerializeToString(deterministic=True)
        answer = once(self._store, actor, request.idempotency_key, "RollBack", content, change)
        self.publish()
        response = pb.RollBackResponse.FromString(answer)
        found = self._hub.wait_confirmed(response.revision, request.wait_ms / 1000, context.is_active)
        response.confirmed.extend(found.confirmed)
        response.pending.extend(found.pending)
        return response

    def RetireVersion(self, request: pb.RetireVersionRequest, context: ServicerContext) -> pb.RetireVersionResponse:
        """Takes a version that does not answer out of use for good."""
        reason = _checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            record = find_version(unit.connection, request.model, request.version)
            gone = retired(record)
            sequence = unit.record("version.retire", record.subject, {"digest": record.digest, "reason": reason})
            save(unit.connection, gone._replace(stage_sequence=sequence))
            return pb.RetireVersionResponse(sequence=sequence).SerializeToString()

        content = request.SerializeToString(deterministic=True)
        actor = caller(context).actor
        answer = once(self._store, actor, request.idempotency_key, "RetireVersion", content, change)
        self.publish()  # a former champion that is retired is kept no longer
        return pb.RetireVersionResponse.FromString(answer)

    def GetStatus(self, request: pb.GetStatusRequest, context: ServicerContext) -> pb.GetStatusResponse:
        """The records of one snapshot beside the gateways' last reports."""
        gateways = self._hub.gateways()
        with self._store.read() as connection:
            names = model_names(connection, request.model)
            holders = {(record.model, record.stage): record for record in versions_in(connection, HOLDERS)}
            champions = [record for (_, stage), record in holders.items() if stage is Stage.CHAMPION]
            tried = {r.model: r for r in on_trial(all_trials(connection), tried_versions(connection), champions)}
            return pb.GetStatusResponse(
                revision=_table(connection, self._store.history_id).revision,
                models=[_model_status(connection, name, holders, gateways, tried.get(name)) for name in names],
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
    save(
        unit.connection,
        promoted._replace(stage_sequence=sequence, champion_sequence=sequence, feature_sequence=feature_sequence),
    )
    end_trial(unit.connection, model, sequence)
    return sequence


def roll_back(unit: Unit, model: str, to_version: int, reason: str) -> pb.RollBackResponse:
    """Puts a former champion in the champion's place within the unit, and says which in which."""
    model_names(unit.connection, model)
    known = ever_champions(unit.connection, model)
    champion = next((record for record in known if record.stage is Stage.CHAMPION), None)
    if champion is None:
        raise Fault(Reason.TRANSITION_REFUSED, f"{model} has no champion, so there is nothing to roll back")
    if champion.version == to_version:
        raise Fault(Reason.TRANSITION_REFUSED, f"{champion.subject} is the champion already")
    target = rollback_target(model, known, to_version)
    facts = {"digest": champion.digest, "to_version": target.version, "to_digest": target.digest, "reason": reason}
    sequence = unit.record("version.roll_back", champion.subject, facts)
    rolled_back, reinstated = rollback_moves(champion, target)
    save(unit.connection, rolled_back._replace(stage_sequence=sequence))
    save(unit.connection, reinstated._replace(stage_sequence=sequence, champion_sequence=sequence))
    return pb.RollBackResponse(revision=sequence, from_version=champion.version, to_version=target.version)


def _check_wait(wait_ms: int) -> None:
    if not 0 <= wait_ms <= LONGEST_WAIT_MS:
        raise Fault(Reason.ARGUMENT_INVALID, f"wait_ms: 0 to {LONGEST_WAIT_MS}, in milliseconds")


def _checked_reason(given: str) -> str:
    reason = given.strip()
    if len(reason) > LONGEST_REASON:
        raise Fault(Reason.ARGUMENT_INVALID, f"reason: at most {LONGEST_REASON} characters, this has {len(reason)}")
    return reason


def _table(connection: Connection, history_id: str) -> RouteTable:
    known = list(dict.fromkeys([*ever_champions(connection), *tried_versions(connection)]))
    return derive(history_id, known, views_by_hash(connection, pinned_hashes(known)), all_trials(connection))


def _model_status(
    connection: Connection,
    model: str,
    holders: dict[tuple[str, Stage], VersionRecord],
    gateways: list[Gateway],
    tried: VersionRecord | None,
) -> pb.ModelStatus:
    champion = holders.get((model, Stage.CHAMPION))
    standby = holders.get((model, Stage.STANDBY))
    status = pb.ModelStatus(
        model=model,
        standby_version=standby.version if standby else 0,
        problems=problems_of(model, champion or tried, gateways),
        trial_version=tried.version if tried else 0,
        kept_versions=[record.version for record in kept_versions(ever_champions(connection, model), model)],
        last_change=pb.LastChange(**last_change(connection, model)._asdict()),
    )
    if answering := champion or tried:
        change = stage_change(connection, answering)
        status.champion_version = champion.version if champion else 0
        status.since_ns, status.promoted_by = change.time_ns, change.actor
        status.approved_by.extend(approvers(connection, answering))
    return status


def _gateway_status(gateway: Gateway) -> pb.GatewayStatus:
    return pb.GatewayStatus(
        gateway_id=gateway.gateway_id,
        revision=gateway.report.revision,
        feature_sequence=gateway.report.feature_sequence,
        report_age_ms=gateway.age_ms,
        problems=gateway.report.problems,
    )
