"""RolloutService: promotion, retirement and status on the wire."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message
from grpc import ServicerContext
from sqlalchemy import Connection

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
from control.rollout.routes import pinned_hashes
from control.rollout.stopping import Stop, check_startable, check_stoppable, has_fallback
from control.rollout.tables import current_table
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
LATELY_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a gateway that is gone is still spoken of."""
HOLDERS: Final = frozenset({Stage.CHAMPION, Stage.STANDBY})
M = TypeVar("M", bound=Message)


class Awaits(Protocol):
    """A request that may wait for gateways."""

    @property
    def wait_ms(self) -> int:
        """How long."""


class Awaited(Protocol):
    """An answer that says which gateways confirm it."""

    @property
    def revision(self) -> int:
        """What is to be confirmed."""

    @property
    def confirmed(self) -> Any:
        """The gateways that do."""

    @property
    def pending(self) -> Any:
        """Those that do not yet."""


A = TypeVar("A", bound=Awaited)


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

        def change(unit: Unit) -> pb.PromoteVersionResponse:
            return pb.PromoteVersionResponse(revision=promote(unit, request.model, request.version))

        return self._awaited(self._once(request, context, change, pb.PromoteVersionResponse), request, context)

    def TryVersion(self, request: pb.TryVersionRequest, context: ServicerContext) -> pb.TryVersionResponse:
        """Puts an unapproved version on trial where that is allowed, then waits for gateways to confirm."""
        _check_wait(request.wait_ms)

        def change(unit: Unit) -> pb.TryVersionResponse:
            revision = put_on_trial(unit, request.model, request.version, self._allow_unapproved)
            return pb.TryVersionResponse(revision=revision)

        return self._awaited(self._once(request, context, change, pb.TryVersionResponse), request, context)

    def RollBack(self, request: pb.RollBackRequest, context: ServicerContext) -> pb.RollBackResponse:
        """Makes a former champion answer again, then waits outside of the commit for gateways to confirm."""
        _check_wait(request.wait_ms)
        reason = _checked_reason(request.reason)

        def change(unit: Unit) -> pb.RollBackResponse:
            return roll_back(unit, request.model, request.to_version, reason)

        response = self._awaited(self._once(request, context, change, pb.RollBackResponse), request, context)
        response.away.extend(gateway.gateway_id for gateway in self._away())
        return response

    def StopModel(self, request: pb.StopModelRequest, context: ServicerContext) -> pb.StopModelResponse:
        """Has nobody answer for the model, then waits outside of the commit for gateways to confirm."""
        _check_wait(request.wait_ms)
        reason = _checked_reason(request.reason)

        def change(unit: Unit) -> pb.StopModelResponse:
            champion, current = _champion_and_stop(unit.connection, request.model)
            stopped = check_stoppable(request.model, champion, current)
            fallback = has_fallback(stopped)
            facts = {"version": stopped.version, "reason": reason, "fallback": fallback}
            sequence = unit.record("model.stop", request.model, facts)
            save_stop(unit.connection, Stop(request.model, True, reason, sequence))
            return pb.StopModelResponse(revision=sequence, fallback=fallback)

        return self._awaited(self._once(request, context, change, pb.StopModelResponse), request, context)

    def StartModel(self, request: pb.StartModelRequest, context: ServicerContext) -> pb.StartModelResponse:
        """Has the champion answer again, then waits outside of the commit for gateways to confirm."""
        _check_wait(request.wait_ms)
        reason = _checked_reason(request.reason)

        def change(unit: Unit) -> pb.StartModelResponse:
            champion, current = _champion_and_stop(unit.connection, request.model)
            started = check_startable(request.model, champion, current)
            sequence = unit.record("model.start", request.model, {"version": started.version, "reason": reason})
            save_stop(unit.connection, Stop(request.model, False, "", sequence))
            return pb.StartModelResponse(revision=sequence, version=started.version)

        return self._awaited(self._once(request, context, change, pb.StartModelResponse), request, context)

    def RetireVersion(self, request: pb.RetireVersionRequest, context: ServicerContext) -> pb.RetireVersionResponse:
        """Takes a version that does not answer, and that no caller named lately, out of use for good."""
        reason = _checked_reason(request.reason)

        def change(unit: Unit) -> pb.RetireVersionResponse:
            record = find_version(unit.connection, request.model, request.version)
            gone = retired(record)
            check_unpinned(record, *last_pinned(unit.connection, record.model, record.version), unit.now_ns)
            sequence = unit.record("version.retire", record.subject, {"digest": record.digest, "reason": reason})
            save(unit.connection, gone._replace(stage_sequence=sequence))
            return pb.RetireVersionResponse(sequence=sequence)

        return self._once(request, context, change, pb.RetireVersionResponse)

    def GetStatus(self, request: pb.GetStatusRequest, context: ServicerContext) -> pb.GetStatusResponse:
        """The records of one snapshot beside the gateways' last reports."""
        gateways, away = self._hub.gateways(), self._away()
        with self._store.read() as connection:
            return overview(connection, self._store.history_id, request.model, gateways, away)

    def publish(self) -> None:
        """Hands the newest table to the gateways."""
        self._hub.publish(current_table(self._store))

    def _once(self, request: Message, context: ServicerContext, change: Callable[[Unit], M], answer: type[M]) -> M:
        """Commits a change once, however often it is asked for, and hands the table that it makes to the gateways."""
        method = request.DESCRIPTOR.name.removesuffix("Request")
        plain = type(request)()
        plain.CopyFrom(request)
        for field in ("idempotency_key", "wait_ms"):  # how long to wait is no part of what is changed
            if field in request.DESCRIPTOR.fields_by_name:
                plain.ClearField(field)
        content = plain.SerializeToString(deterministic=True)
        key = request.idempotency_key  # type: ignore[attr-defined]  # every change has one
        actor = caller(context).actor
        given = once(self._store, actor, key, method, content, lambda unit: change(unit).SerializeToString())
        self.publish()
        return answer.FromString(given)

    def _awaited(self, response: A, request: Awaits, context: ServicerContext) -> A:
        """The answer with the gateways that confirm its revision, and those that do not within the time."""
        found = self._hub.wait_confirmed(response.revision, request.wait_ms / 1000, context.is_active)
        response.confirmed.extend(found.confirmed)
        response.pending.extend(found.pending)
        return response

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


def _champion_and_stop(connection: Connection, model: str) -> tuple[VersionRecord | None, Stop | None]:
    model_names(connection, model)
    champions = versions_in(connection, frozenset({Stage.CHAMPION}), model)
    return next(iter(champions), None), next(iter(all_stops(connection, model)), None)
