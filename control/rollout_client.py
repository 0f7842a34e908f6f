"""RolloutService as typed calls: who answers, and what is tried. `services` has them beside the other services'."""

from __future__ import annotations

from collections.abc import Sequence

from control.connection import CHANGE_S, Connection, new_key
from control.v1 import rollout_pb2
from control.v1.rollout_pb2_grpc import RolloutServiceStub


class RolloutClient(Connection):
    """The control plane's decisions about versions, as one actor may make them."""

    def __init__(self, address: str, token: str | None) -> None:
        super().__init__(address, token, "the control plane")
        self._rollout = RolloutServiceStub(self.channel)

    # Who answers

    def promote(self, model: str, version: int, wait_s: float = 0, key: str = "") -> rollout_pb2.PromoteVersionResponse:
        """Makes an approved version the champion, and waits up to `wait_s` for the gateways to confirm it."""
        request = rollout_pb2.PromoteVersionRequest(
            idempotency_key=key or new_key(), model=model, version=version, wait_ms=int(wait_s * 1000)
        )
        return self.call(self._rollout.PromoteVersion, request, CHANGE_S + wait_s)

    def try_version(self, model: str, version: int, wait_s: float = 0, key: str = "") -> rollout_pb2.TryVersionResponse:
        """Lets an unapproved version answer, where the control plane was started for trial."""
        request = rollout_pb2.TryVersionRequest(
            idempotency_key=key or new_key(), model=model, version=version, wait_ms=int(wait_s * 1000)
        )
        return self.call(self._rollout.TryVersion, request, CHANGE_S + wait_s)

    def roll_back(
        self, model: str, to_version: int = 0, reason: str = "", wait_s: float = 0, key: str = ""
    ) -> rollout_pb2.RollBackResponse:
        """Makes a former champion answer again (0: the last one), and waits up to `wait_s` for the gateways."""
        request = rollout_pb2.RollBackRequest(
            idempotency_key=key or new_key(),
            model=model,
            to_version=to_version,
            reason=reason,
            wait_ms=int(wait_s * 1000),
        )
        return self.call(self._rollout.RollBack, request, CHANGE_S + wait_s)

    def stop(self, model: str, reason: str, wait_s: float = 0, key: str = "") -> rollout_pb2.StopModelResponse:
        """Has nobody answer for a model, and waits up to `wait_s` for the gateways."""
        request = rollout_pb2.StopModelRequest(
            idempotency_key=key or new_key(), model=model, reason=reason, wait_ms=int(wait_s * 1000)
        )
        return self.call(self._rollout.StopModel, request, CHANGE_S + wait_s)

    def start(self, model: str, reason: str, wait_s: float = 0, key: str = "") -> rollout_pb2.StartModelResponse:
        """Has the champion of a stopped model answer again, and waits up to `wait_s` for the gateways."""
        request = rollout_pb2.StartModelRequest(
            idempotency_key=key or new_key(), model=model, reason=reason, wait_ms=int(wait_s * 1000)
        )
        return self.call(self._rollout.StartModel, request, CHANGE_S + wait_s)

    def retire(self, model: str, version: int, reason: str, key: str = "") -> int:
        """Takes a version out of use; returns the number of the audit entry that says so."""
        request = rollout_pb2.RetireVersionRequest(
            idempotency_key=key or new_key(), model=model, version=version, reason=reason
        )
        return self.call(self._rollout.RetireVersion, request, CHANGE_S).sequence

    def status(self, model: str = "") -> rollout_pb2.GetStatusResponse:
        """Who answers for each model, and which gateways confirm it."""
        return self.call(self._rollout.GetStatus, rollout_pb2.GetStatusRequest(model=model))

    # Rollouts

    def start_rollout(
        self,
        model: str,
        version: int,
        policy_yaml: str = "",
        *,
        shadow_only: bool = False,
        wait_s: float = 0,
        key: str = "",
    ) -> rollout_pb2.StartRolloutResponse:
        """Tries an approved version against the champion, by a policy (the tier's, where the text leaves it out)."""
        request = rollout_pb2.StartRolloutRequest(
            idempotency_key=key or new_key(),
            model=model,
            version=version,
            policy_yaml=policy_yaml,
            shadow_only=shadow_only,
            wait_ms=int(wait_s * 1000),
        )
        return self.call(self._rollout.StartRollout, request, CHANGE_S + wait_s)

    def rollouts(self, model: str = "", *, ended: bool = False) -> Sequence[rollout_pb2.Rollout]:
        """Rollouts, the newest first: those that run, and where asked for those that ended as well."""
        request = rollout_pb2.ListRolloutsRequest(model=model, ended=ended)
        return self.call(self._rollout.ListRollouts, request).rollouts

    def rollout(self, model: str = "", rollout_id: int = 0) -> rollout_pb2.GetRolloutResponse:
        """One rollout whole: by its id, or else the model's running or newest one."""
        request = rollout_pb2.GetRolloutRequest(rollout_id=rollout_id, model=model)
        return self.call(self._rollout.GetRollout, request)

    def pause_rollout(self, model: str = "", reason: str = "", key: str = "") -> Sequence[rollout_pb2.Rollout]:
        """Keeps the rollouts of a model, or all of them, from advancing; returns those that were not paused before."""
        request = rollout_pb2.PauseRolloutRequest(idempotency_key=key or new_key(), model=model, reason=reason)
        return self.call(self._rollout.PauseRollout, request, CHANGE_S).rollouts

    def resume_rollout(self, model: str = "", reason: str = "", key: str = "") -> Sequence[rollout_pb2.Rollout]:
        """Lets the paused rollouts of a model, or all of them, go on; returns those."""
        request = rollout_pb2.ResumeRolloutRequest(idempotency_key=key or new_key(), model=model, reason=reason)
        return self.call(self._rollout.ResumeRollout, request, CHANGE_S).rollouts

    def promote_rollout(
        self, model: str, reason: str, wait_s: float = 0, key: str = ""
    ) -> rollout_pb2.PromoteRolloutResponse:
        """Makes the challenger the champion without the evidence, and waits up to `wait_s` for the gateways."""
        request = rollout_pb2.PromoteRolloutRequest(
            idempotency_key=key or new_key(), model=model, reason=reason, wait_ms=int(wait_s * 1000)
        )
        return self.call(self._rollout.PromoteRollout, request, CHANGE_S + wait_s)

    def roll_back_rollout(
        self, model: str, version: int = 0, reason: str = "", wait_s: float = 0, key: str = ""
    ) -> rollout_pb2.RollBackRolloutResponse:
        """Ends a rollout (0: the model's, else the one that tries a version), and waits up to `wait_s`."""
        request = rollout_pb2.RollBackRolloutRequest(
            idempotency_key=key or new_key(),
            model=model,
            version=version,
            reason=reason,
            wait_ms=int(wait_s * 1000),
        )
        return self.call(self._rollout.RollBackRollout, request, CHANGE_S + wait_s)
