"""What is done about rollouts, each within one unit: the records and the audit entry that says why, together."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from control.rollout.case import Phase
from control.rollout.lifecycle import Stage
from control.rollout.policy import Policy
from control.rollout.promotion import check_promotable
from control.rollout.records import approvers, find_version, model_names, newest_batches, save, versions_in
from control.rollout.rollout_records import (
    active,
    add_rollout,
    concerned,
    find_rollout,
    forget_units,
    running,
    save_rollout,
)
from control.rollout.rollouts import (
    Kind,
    Move,
    Outcome,
    Rollout,
    advanced,
    back,
    begin,
    check_comparable,
    ended,
    promoted,
    released,
    resumed,
)
from control.rollout.routes import pinned_hashes
from control.rollout.tiers import default_policy, read_policy
from control.rollout.version import VersionRecord
from control.store.store import Unit
from gateway.contract.errors import Fault, Reason

SALT_BYTES = 16


def start(
    unit: Unit, model: str, version: int, policy_yaml: str, kind: Kind, judges: Sequence[str]
) -> tuple[Rollout, Policy]:
    """Starts a rollout of an approved version against the champion; a holdback that still runs is ended by it.

    `judges` are the connected gateways, of which the first get the slots to judge alone.
    """
    challenger = find_version(unit.connection, model, version)
    control = _champion(unit, model)
    check_comparable(challenger, control)
    feature_sequence = check_promotable(
        challenger,
        approvers(unit.connection, challenger),
        newest_batches(unit.connection, pinned_hashes([challenger])),
    )
    policy = (
        read_policy(policy_yaml, challenger.document) if policy_yaml.strip() else default_policy(challenger.document)
    )
    if kind is Kind.SHADOW and policy.shadow is None:
        raise Fault(Reason.ROLLOUT_REFUSED, "shadow: the policy has none, and the version is only to be mirrored")
    _refuse_second_trial(unit, challenger)
    if kind is Kind.ROLLOUT:
        _make_room(unit, model, challenger)
    rollout = Rollout(
        rollout_id=0,
        model=model,
        kind=kind,
        challenger=version,
        challenger_digest=challenger.digest,
        control=control.version,
        control_digest=control.digest,
        policy_json=policy.canonical(),
        salt=secrets.token_hex(SALT_BYTES),
        started_by=unit.actor,
        started_ns=unit.now_ns,
        phase=Phase.SHADOW,
        step=0,
        weight_bps=0,
        phase_since_ns=unit.now_ns,
        step_since_ns=unit.now_ns,
        sequence=0,
        judges_json=json.dumps(sorted(judges)[: policy.gateway_slots]),
    )
    move = begin(rollout, challenger._replace(feature_sequence=feature_sequence))
    facts = {
        "kind": kind,
        "digest": challenger.digest,
        "control": control.version,
        "control_digest": control.digest,
        "policy": json.loads(rollout.policy_json),
        "policy_sha256": policy.digest(),
        "salt": rollout.salt,
        "judges": json.loads(rollout.judges_json),
        "phase": move.rollout.phase,
        "weight_bps": move.rollout.weight_bps,
    }
    sequence = unit.record("rollout.start", rollout.subject, facts)
    started = move.rollout._replace(rollout_id=sequence, sequence=sequence)
    add_rollout(unit, started)
    _save_versions(unit, move.versions, sequence)
    return started, policy


def move_forward(unit: Unit, rollout: Rollout, facts: Mapping[str, Any]) -> Rollout:
    """Makes the next move forward."""
    return _apply(unit, advanced(rollout, concerned(unit.connection, rollout), unit.now_ns), "rollout.advance", facts)


def promote_without_evidence(unit: Unit, model: str, reason: str, facts: Mapping[str, Any]) -> Rollout:
    """Promotes the challenger of the model's rollout against HOLD."""
    rollout = _active(unit, model)
    if rollout.phase is Phase.HOLDBACK:
        raise Fault(Reason.ROLLOUT_REFUSED, f"{rollout.subject} is promoted already; its holdback goes on comparing")
    if not reason:
        raise Fault(Reason.ARGUMENT_INVALID, "reason: promoting against the evidence needs one, for the audit trail")
    move = promoted(rollout, concerned(unit.connection, rollout), unit.now_ns)
    forced = move.rollout._replace(without_evidence=True, reason=reason)
    return _apply(unit, move._replace(rollout=forced), "rollout.promote_without_evidence", {**facts, "reason": reason})


def move_back(unit: Unit, rollout: Rollout, outcome: Outcome, reason: str, facts: Mapping[str, Any]) -> Rollout:
    """Ends a rollout against its challenger."""
    move = back(rollout, concerned(unit.connection, rollout), outcome, unit.now_ns)
    over = move._replace(rollout=move.rollout._replace(reason=reason))
    action = "rollout.quarantine" if outcome is Outcome.QUARANTINED else "rollout.roll_back"
    return _apply(unit, over, action, {**facts, "reason": reason})


def release(unit: Unit, rollout: Rollout, reason: str) -> Rollout:
    """Ends a rollout in shadow, through no fault of its challenger's, which may be started again."""
    move = released(rollout, concerned(unit.connection, rollout), unit.now_ns)
    over = move._replace(rollout=move.rollout._replace(reason=reason))
    return _apply(unit, over, "rollout.release", {"reason": reason})


def find_active(unit: Unit, model: str, version: int = 0) -> Rollout:
    """The model's rollout that runs, or the one that tries a version; a fault where there is none."""
    if not version:
        return _active(unit, model)
    found = next((one for one in running(unit.connection, model) if one.challenger == version), None)
    if found is None:
        raise Fault(Reason.ROLLOUT_REFUSED, f"no rollout tries {model}/{version} now")
    return found


def pause(unit: Unit, model: str, reason: str) -> list[Rollout]:
    """Pauses the rollouts of a model, or all of them, that are not paused."""
    chosen = [one for one in running(unit.connection, model) if not one.paused_ns]
    changed = [one._replace(paused_ns=unit.now_ns) for one in chosen]
    return _note(unit, changed, "rollout.pause", model, reason)


def resume(unit: Unit, model: str, reason: str) -> list[Rollout]:
    """Lets the paused rollouts of a model, or all of them, go on."""
    chosen = [one for one in running(unit.connection, model) if one.paused_ns]
    return _note(unit, [resumed(one, unit.now_ns) for one in chosen], "rollout.resume", model, reason)


def give_slot(unit: Unit, rollout: Rollout, gateway_id: str) -> Rollout:
    """Gives one more gateway the right to judge alone, by a slot that nobody had."""
    judges = [*json.loads(rollout.judges_json), gateway_id]
    changed = rollout._replace(judges_json=json.dumps(judges))
    sequence = unit.record("rollout.give_slot", rollout.subject, {"gateway_id": gateway_id, "slot": len(judges)})
    save_rollout(unit, changed._replace(sequence=sequence))
    return changed._replace(sequence=sequence)


def _apply(unit: Unit, move: Move, action: str, facts: Mapping[str, Any]) -> Rollout:
    rollout = move.rollout
    what = {
        "rollout_id": rollout.rollout_id,
        "phase": rollout.phase,
        "step": rollout.step + 1,
        "weight_bps": rollout.weight_bps,
        "outcome": rollout.outcome,
        "versions": {str(one.version): one.stage for one in move.versions},
    }
    sequence = unit.record(action, rollout.subject, {**facts, **what})
    changed = rollout._replace(sequence=sequence)
    save_rollout(unit, changed)
    _save_versions(unit, move.versions, sequence)
    if changed.outcome:
        forget_units(unit, changed.rollout_id)
    return changed


def _save_versions(unit: Unit, versions: Sequence[VersionRecord], sequence: int) -> None:
    for version in versions:
        saved = version._replace(stage_sequence=sequence)
        if version.stage is Stage.CHAMPION:
            saved = saved._replace(champion_sequence=sequence)
        elif version.stage in (Stage.ROLLED_BACK, Stage.QUARANTINED):
            saved = saved._replace(champion_sequence=0)
        save(unit.connection, saved)


def _note(unit: Unit, changed: list[Rollout], action: str, model: str, reason: str) -> list[Rollout]:
    """Records what changes nothing of the routes."""
    for rollout in changed:
        unit.record(action, rollout.subject, {"rollout_id": rollout.rollout_id, "reason": reason})
        save_rollout(unit, rollout)
    if not changed:
        model_names(unit.connection, model)  # a fault where there is no such model
        state = "paused" if action == "rollout.resume" else "running"
        raise Fault(Reason.ROLLOUT_REFUSED, f"no {state} rollout{f' of {model}' if model else ''} was found")
    return changed


def _refuse_second_trial(unit: Unit, challenger: VersionRecord) -> None:
    """A version that is in shadow by itself may be rolled out when that has ended: it has one place at a time."""
    rolling = running(unit.connection, challenger.model)
    own = (one for one in rolling if one.kind is Kind.SHADOW and one.challenger == challenger.version)
    if (shadow := next(own, None)) is not None:
        raise Fault(
            Reason.ROLLOUT_REFUSED,
            f"{challenger.subject} is in shadow by itself (rollout {shadow.rollout_id}); `interlock rollout rollback "
            f"{shadow.model} --version {shadow.challenger} --reason WHY` ends that, and then it can be rolled out",
            rollout=str(shadow.rollout_id),
        )


def _make_room(unit: Unit, model: str, challenger: VersionRecord) -> None:
    """One rollout at a time: a running one refuses another, and a holdback is over when the next one begins."""
    other = active(unit.connection, model)
    if other is None:
        return
    if other.phase is not Phase.HOLDBACK:
        raise Fault(
            Reason.ROLLOUT_REFUSED,
            f"{model} has a rollout already: {other.subject} is in {other.phase} (rollout {other.rollout_id}); "
            f"`interlock rollout rollback {model}` ends it, before {challenger.subject} can start",
            rollout=str(other.rollout_id),
        )
    over = ended(other, Outcome.SUPERSEDED, unit.now_ns)._replace(reason=f"{challenger.subject} was started")
    _apply(unit, Move(over), "rollout.supersede", {"by": challenger.subject})


def _active(unit: Unit, model: str) -> Rollout:
    found = active(unit.connection, model)
    if found is None:
        find_rollout(unit.connection, 0, model)  # says which rollouts there are, where there never was one
        raise Fault(Reason.ROLLOUT_REFUSED, f"no rollout of {model} runs now; `interlock rollout start` begins one")
    return found


def _champion(unit: Unit, model: str) -> VersionRecord:
    found = versions_in(unit.connection, frozenset({Stage.CHAMPION}), model)
    if not found:
        raise Fault(
            Reason.ROLLOUT_REFUSED,
            f"{model} has no champion to compare with; `interlock model promote {model}/VERSION` makes the first one",
        )
    return found[0]
