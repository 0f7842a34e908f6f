"""RolloutService: promotion, retirement and status on the wire."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

import time
from typing import Final

from grpc import ServicerContext

from control.rollout.alarms import harm_alerts
from control.rollout.calls import RolloutCalls, check_wait, checked_reason
from control.rollout.controller import Controller
from control.rollout.gateway_records import SeenGateway, gateways_since, last_pinned
from control.rollout.hub import Hub
from control.rollout.moves import promote, roll_back, start, stop
from control.rollout.overview import overview
from control.rollout.promotion import check_unpinned, retired
from control.rollout.records import find_version, save
from control.rollout.rollout_records import listed
from control.rollout.trial_store import put_on_trial
from control.store.store import Store, Unit
from control.v1 import rollout_pb2 as pb

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
            done = roll_back(unit, request.model, request.to_version, reason)
            return pb.RollBackResponse(**done._asdict()).SerializeToString()

        response = self._once(request, context, pb.RollBackResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        response.away.extend(gateway.gateway_id for gateway in self._away())
        return response

    def StopModel(self, request: pb.StopModelRequest, context: ServicerContext) -> pb.StopModelResponse:
        """Has nobody answer for the model, then waits outside of the commit for gateways to confirm."""
        check_wait(request.wait_ms)
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            revision, fallback = stop(unit, request.model, reason)
            return pb.StopModelResponse(revision=revision, fallback=fallback).SerializeToString()

        response = self._once(request, context, pb.StopModelResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        return response

    def StartModel(self, request: pb.StartModelRequest, context: ServicerContext) -> pb.StartModelResponse:
        """Has the champion answer again, then waits outside of the commit for gateways to confirm."""
        check_wait(request.wait_ms)
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            revision, version = start(unit, request.model, reason)
            return pb.StartModelResponse(revision=revision, version=version).SerializeToString()

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
            found = overview(connection, self._store.history_id, request.model, gateways, away)
            rollouts = [self._message(rollout) for rollout in listed(connection, request.model, ended=False)]
        for status in found.models:
            status.rollouts.extend(one for one in rollouts if one.model == status.model)
            status.problems.extend(words for one in status.rollouts for words in harm_alerts(one))
        return found

    def publish(self) -> None:
        """Hands the newest table to the gateways."""
        self._controller.publish()

    def _away(self) -> list[SeenGateway]:
        """The gateways that were here lately and are not now."""
        here = {gateway.gateway_id for gateway in self._hub.gateways()}
        with self._store.read() as connection:
            seen = gateways_since(connection, time.time_ns() - LATELY_NS)
        return [gateway for gateway in seen if gateway.gateway_id not in here]
