"""RolloutService: promotion, retirement and status on the wire."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

import time
from typing import Final

from grpc import ServicerContext

from control.rollout.calls import RolloutCalls, check_wait, checked_reason
from control.rollout.conduct import move_back
from control.rollout.controller import Controller
from control.rollout.gateway_records import SeenGateway, gateways_since, last_pinned
from control.rollout.hub import Hub
from control.rollout.lifecycle import Stage
from control.rollout.overview import overview
from control.rollout.promotion import (
    check_promotable,
    check_unpinned,
    promotion_moves,
    retired,
    rollback_moves,
    rollback_target,
)
from control.rollout.records import (
    all_stops,
    approvers,
    end_trial,
    ever_champions,
    find_version,
    model_names,
    newest_batches,
    save,
    save_stop,
    versions_in,
)
from control.rollout.rollout_records import active
from control.rollout.rollouts import STANDING, Outcome
from control.rollout.routes import pinned_hashes
from control.rollout.stopping import Stop, check_startable, check_stoppable, has_fallback
from control.rollout.trial_store import put_on_trial
from control.rollout.version import VersionRecord
from control.store.store import Store, Unit
from control.v1 import rollout_pb2 as pb
from gateway.contract.errors import Fault, Reason

LATELY_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a gateway that is gone is still spoken of."""


class RolloutService(RolloutCalls):
    """Decides, commits, and publishes what it committed.

    `allow_unapproved` lets versions answer on trial.
    """

    def __init__(self, store: Store, hub: Hub, controller: Controller, allow_unapproved: bool = False) -> None:
        super().__init__(store, hub, controller)
        self._allow_unapproved = allow_unapproved

    def PromoteVersion(self, request: pb.PromoteVersionRequest, context: ServicerContext) -> pb.PromoteVersionResponse:
        """Makes the version champion, then waits outside of the commit for gateways to confirm."""
        check_wait(request.wait_ms)

        def change(unit: Unit) -> bytes:
            revision = promote(unit, request.model, request.version)
            return pb.PromoteVersionResponse(revision=revision).SerializeToString()

        response = self._once(request, context, pb.PromoteVersionResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        return response

    def TryVersion(self, request: pb.TryVersionRequest, context: ServicerContext) -> pb.TryVersionResponse:
        """Puts an unapproved version on trial where that is allowed, then waits for gateways to confirm."""
        check_wait(request.wait_ms)

        def change(unit: Unit) -> bytes:
            revision = put_on_trial(unit, request.model, request.version, self._allow_unapproved)
            return pb.TryVersionResponse(revision=revision).SerializeToString()

        response = self._once(request, context, pb.TryVersionResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        return response

    def RollBack(self, request: pb.RollBackRequest, context: ServicerContext) -> pb.RollBackResponse:
        """Makes a former champion answer again, then waits outside of the commit for gateways to confirm."""
        check_wait(request.wait_ms)
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            return roll_back(unit, request.model, request.to_version, reason).SerializeToString()

        response = self._once(request, context, pb.RollBackResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        response.away.extend(gateway.gateway_id for gateway in self._away())
        return response

    def StopModel(self, request: pb.StopModelRequest, context: ServicerContext) -> pb.StopModelResponse:
        """Has nobody answer for the model, then waits outside of the commit for gateways to confirm."""
        check_wait(request.wait_ms)
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            return stop(unit, request.model, reason).SerializeToString()

        response = self._once(request, context, pb.StopModelResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        return response

    def StartModel(self, request: pb.StartModelRequest, context: ServicerContext) -> pb.StartModelResponse:
        """Has the champion answer again, then waits outside of the commit for gateways to confirm."""
        check_wait(request.wait_ms)
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            return start(unit, request.model, reason).SerializeToString()

        response = self._once(request, context, pb.StartModelResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        return response

    def RetireVersion(self, request: pb.RetireVersionRequest, context: ServicerContext) -> pb.RetireVersionResponse:
        """Takes a version that does not answer, and that no caller named lately, out of use for good."""
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            record = find_version(unit.connection, request.model, request.version)
            gone = retired(record)
            check_unpinned(record, *last_pinned(unit.connection, record.model, record.version), unit.now_ns)
            sequence = unit.record("version.retire", record.subject, {"digest": record.digest, "reason": reason})
            save(unit.connection, gone._replace(stage_sequence=sequence))
            return pb.RetireVersionResponse(sequence=sequence).SerializeToString()

        return self._once(request, context, pb.RetireVersionResponse, change)

    def GetStatus(self, request: pb.GetStatusRequest, context: ServicerContext) -> pb.GetStatusResponse:
        """The records of one snapshot beside the gateways' last reports."""
        gateways, away = self._hub.gateways(), self._away()
        with self._store.read() as connection:
            return overview(connection, self._store.history_id, request.model, gateways, away)

    def publish(self) -> None:
        """Hands the newest table to the gateways."""
        self._controller.publish()

    def _away(self) -> list[SeenGateway]:
        """The gateways that were here lately and are not now."""
        here = {gateway.gateway_id for gateway in self._hub.gateways()}
        with self._store.read() as connection:
            seen = gateways_since(connection, time.time_ns() - LATELY_NS)
        return [gateway for gateway in seen if gateway.gateway_id not in here]


def promote(unit: Unit, model: str, version: int) -> int:
    """Makes the version champion within the unit and returns the revision."""
    record = find_version(unit.connection, model, version)
    hashes = pinned_hashes([record])
    approved_by = approvers(unit.connection, record)
    feature_sequence = check_promotable(record, approved_by, newest_batches(unit.connection, hashes))
    holders = versions_in(unit.connection, STANDING, model)
    if champion := next((holder for holder in holders if holder.stage is Stage.CHAMPION), None):
        raise Fault(
            Reason.TRANSITION_REFUSED,
            f"{champion.subject} answers already, and only a model's first version is promoted directly; "
            f"`interlock rollout start {record.model} {record.version}` tries this one against it",
        )
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
    """Puts a former champion in the champion's place within the unit, and says which in which.

    A version that is on trial beside the champion goes first: it is what changed last. So does one that was promoted by
    a rollout whose holdback still compares; a former champion that is named goes on from there.
    """
    model_names(unit.connection, model)
    rollout = active(unit.connection, model)
    if rollout is not None:
        over = move_back(unit, rollout, Outcome.ROLLED_BACK, reason, {"by": "person"})
        if to_version in (0, rollout.control):
            response = pb.RollBackResponse(revision=over.sequence)
            response.from_version, response.to_version = rollout.challenger, rollout.control
            return response
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


def stop(unit: Unit, model: str, reason: str) -> pb.StopModelResponse:
    """Stops a model within the unit."""
    champion, current = _champion_and_stop(unit, model)
    stopped = check_stoppable(model, champion, current)
    fallback = has_fallback(stopped)
    sequence = unit.record("model.stop", model, {"version": stopped.version, "reason": reason, "fallback": fallback})
    save_stop(unit.connection, Stop(model, True, reason, sequence))
    return pb.StopModelResponse(revision=sequence, fallback=fallback)


def start(unit: Unit, model: str, reason: str) -> pb.StartModelResponse:
    """Starts a stopped model within the unit."""
    champion, current = _champion_and_stop(unit, model)
    started = check_startable(model, champion, current)
    sequence = unit.record("model.start", model, {"version": started.version, "reason": reason})
    save_stop(unit.connection, Stop(model, False, "", sequence))
    return pb.StartModelResponse(revision=sequence, version=started.version)


def _champion_and_stop(unit: Unit, model: str) -> tuple[VersionRecord | None, Stop | None]:
    model_names(unit.connection, model)
    champions = versions_in(unit.connection, frozenset({Stage.CHAMPION}), model)
    return next(iter(champions), None), next(iter(all_stops(unit.connection, model)), None)
