"""The calls of RolloutService that are about rollouts; `service` has those about who answers."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message
from grpc import ServicerContext

from control.rollout import conduct
from control.rollout.case import Phase
from control.rollout.controller import Controller, Judged
from control.rollout.hub import Hub
from control.rollout.outlook import lines
from control.rollout.rollout_records import find_rollout, heads, listed
from control.rollout.rollouts import Kind, Outcome, Rollout
from control.security import caller
from control.store.idempotency import once
from control.store.store import Store, Unit
from control.v1 import rollout_pb2 as pb
from control.v1.rollout_pb2_grpc import RolloutServiceServicer
from gateway.contract.errors import Fault, Reason

LONGEST_WAIT_MS: Final = 600_000
LONGEST_REASON: Final = 2000
M = TypeVar("M", bound=Message)


class Keyed(Protocol):
    """A request for a change."""

    idempotency_key: str


class RolloutCalls(RolloutServiceServicer):
    """Decides about rollouts, commits, and publishes what it committed."""

    def __init__(self, store: Store, hub: Hub, controller: Controller) -> None:
        self._store = store
        self._hub = hub
        self._controller = controller

    def StartRollout(self, request: pb.StartRolloutRequest, context: ServicerContext) -> pb.StartRolloutResponse:
        """Writes the promise to the audit trail, and only then lets the version see a request."""
        check_wait(request.wait_ms)
        kind = Kind.SHADOW if request.shadow_only else Kind.ROLLOUT
        gateways = [gateway.gateway_id for gateway in self._hub.gateways()]

        def change(unit: Unit) -> bytes:
            started, policy = conduct.start(unit, request.model, request.version, request.policy_yaml, kind, gateways)
            forecast, warnings = lines(policy, self._controller.traffic(request.model), request.shadow_only)
            message = rollout_message(started, None)
            return pb.StartRolloutResponse(rollout=message, forecast=forecast, warnings=warnings).SerializeToString()

        response = self._once(request, context, pb.StartRolloutResponse, change)
        self._wait(response, response.rollout.rollout_id, request.wait_ms, context)
        return response

    def ListRollouts(self, request: pb.ListRolloutsRequest, context: ServicerContext) -> pb.ListRolloutsResponse:
        """One snapshot's rollouts."""
        with self._store.read() as connection:
            found = listed(connection, request.model, request.ended)
        return pb.ListRolloutsResponse(rollouts=[self._message(rollout) for rollout in found])

    def GetRollout(self, request: pb.GetRolloutRequest, context: ServicerContext) -> pb.GetRolloutResponse:
        """The rollout with its promise and what the last judgement rests on."""
        with self._store.read() as connection:
            rollout = find_rollout(connection, request.rollout_id, request.model)
            seen = heads(connection, rollout.rollout_id)
        judged = self._controller.judged(rollout.rollout_id)
        return pb.GetRolloutResponse(
            rollout=self._message(rollout),
            policy_json=rollout.policy_json,
            case_json=judged.case.canonical() if judged else "",
            mirror_json=json.dumps({name: json.loads(head.shadow_json) for name, head in sorted(seen.items())}),
        )

    def PauseRollout(self, request: pb.PauseRolloutRequest, context: ServicerContext) -> pb.PauseRolloutResponse:
        """Keeps rollouts from advancing."""
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            paused = conduct.pause(unit, request.model, reason)
            return pb.PauseRolloutResponse(rollouts=map(self._message, paused)).SerializeToString()

        return self._once(request, context, pb.PauseRolloutResponse, change)

    def ResumeRollout(self, request: pb.ResumeRolloutRequest, context: ServicerContext) -> pb.ResumeRolloutResponse:
        """Lets rollouts go on."""
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            going = conduct.resume(unit, request.model, reason)
            self._controller.forgive_losses(unit, going)
            return pb.ResumeRolloutResponse(rollouts=map(self._message, going)).SerializeToString()

        return self._once(request, context, pb.ResumeRolloutResponse, change)

    def PromoteRollout(self, request: pb.PromoteRolloutRequest, context: ServicerContext) -> pb.PromoteRolloutResponse:
        """Promotes against HOLD: an approver's decision, with a reason."""
        check_wait(request.wait_ms)
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            rollout = conduct.find_active(unit, request.model)
            facts = self._controller.facts(rollout.rollout_id)
            promoted = conduct.promote_without_evidence(unit, request.model, reason, facts)
            message = self._message(promoted)
            return pb.PromoteRolloutResponse(rollout=message, revision=promoted.sequence).SerializeToString()

        response = self._once(request, context, pb.PromoteRolloutResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        return response

    def RollBackRollout(
        self, request: pb.RollBackRolloutRequest, context: ServicerContext
    ) -> pb.RollBackRolloutResponse:
        """Ends a rollout against its challenger, at any time and without an approval."""
        check_wait(request.wait_ms)
        reason = checked_reason(request.reason)

        def change(unit: Unit) -> bytes:
            rollout = conduct.find_active(unit, request.model, request.version)
            facts = self._controller.facts(rollout.rollout_id)
            over = conduct.move_back(unit, rollout, Outcome.ROLLED_BACK, reason, {**facts, "by": "person"})
            message = self._message(over)
            return pb.RollBackRolloutResponse(rollout=message, revision=over.sequence).SerializeToString()

        response = self._once(request, context, pb.RollBackRolloutResponse, change)
        self._wait(response, response.revision, request.wait_ms, context)
        return response

    def _message(self, rollout: Rollout) -> pb.Rollout:
        return rollout_message(rollout, self._controller.judged(rollout.rollout_id))

    def _once(self, request: Any, context: ServicerContext, kind: type[M], change: Callable[[Unit], bytes]) -> M:
        """Makes a change once per key, and publishes; how long to wait is no part of what is changed."""
        content = type(request)()
        content.CopyFrom(request)
        content.ClearField("idempotency_key")
        if "wait_ms" in content.DESCRIPTOR.fields_by_name:
            content.ClearField("wait_ms")
        method = request.DESCRIPTOR.name.removesuffix("Request")
        plain = content.SerializeToString(deterministic=True)
        answer = once(self._store, caller(context).actor, request.idempotency_key, method, plain, change)
        self._controller.publish()
        return kind.FromString(answer)

    def _wait(self, response: Any, revision: int, wait_ms: int, context: ServicerContext) -> None:
        found = self._hub.wait_confirmed(revision, wait_ms / 1000, context.is_active)
        response.confirmed.extend(found.confirmed)
        response.pending.extend(found.pending)


def rollout_message(rollout: Rollout, judged: Judged | None) -> pb.Rollout:
    """A rollout on the wire, with its last judgement."""
    message = pb.Rollout(
        rollout_id=rollout.rollout_id,
        model=rollout.model,
        shadow_only=rollout.kind is Kind.SHADOW,
        challenger=rollout.challenger,
        control=rollout.control,
        phase="ended" if rollout.outcome else rollout.phase,
        step=rollout.step + 1 if rollout.phase is Phase.CANARY else 0,
        weights_bps=[step.weight_bps for step in rollout.policy.steps],
        weight_bps=0 if rollout.outcome else rollout.weight_bps,
        paused=bool(rollout.paused_ns),
        without_evidence=rollout.without_evidence,
        started_by=rollout.started_by,
        started_ns=rollout.started_ns,
        phase_since_ns=rollout.phase_since_ns,
        step_since_ns=rollout.step_since_ns,
        outcome=rollout.outcome,
        ended_ns=rollout.ended_ns,
        reason=rollout.reason,
    )
    if judged is not None and not rollout.outcome:
        judgement = judged.judgement
        message.verdict, message.cause = judgement.verdict, judgement.cause
        message.reason, message.needs_person = judgement.sentence, judgement.needs_person
        message.alerts.extend(judgement.alerts)
    if judged is not None:
        message.findings.extend(
            pb.Finding(
                metric=found.metric,
                test=found.test,
                log_e=found.log_e,
                threshold=found.threshold,
                reached=found.reached,
                challenger=found.counts.challenger,
                control=found.counts.champion,
            )
            for found in judged.judgement.findings
        )
    return message


def check_wait(wait_ms: int) -> None:
    """Raises Fault for a wait that is too long."""
    if not 0 <= wait_ms <= LONGEST_WAIT_MS:
        raise Fault(Reason.ARGUMENT_INVALID, f"wait_ms: 0 to {LONGEST_WAIT_MS}, in milliseconds")


def checked_reason(given: str) -> str:
    """A reason for the audit trail; raises Fault for one that is too long."""
    reason = given.strip()
    if len(reason) > LONGEST_REASON:
        raise Fault(Reason.ARGUMENT_INVALID, f"reason: at most {LONGEST_REASON} characters, this has {len(reason)}")
    return reason
