"""Rollouts as values, and the moves that each allows: what becomes of the rollout and of its versions. Pure.

From its first request to the end of its holdback a rollout compares two versions: the challenger, which is on trial,
and the control, which was the champion when it began.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from control.rollout.case import Phase
from control.rollout.lifecycle import Event, Stage
from control.rollout.policy import Policy
from control.rollout.promotion import moved, promotion_moves, rollback_moves
from control.rollout.version import VersionRecord
from gateway.contract.document import ModelDocument, RequestInput
from gateway.contract.errors import Fault, Reason
from gateway.contract.routing import WHOLE_BPS


class Kind(StrEnum):
    """What a rollout is for."""

    ROLLOUT = "rollout"
    """To become the champion; a model has one at a time."""
    SHADOW = "shadow"
    """To be looked at, in shadow only; a model may have several."""


class Outcome(StrEnum):
    """How a rollout ended."""

    RUNNING = ""
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"
    SUPERSEDED = "superseded"
    """A new rollout of the model began while this one held back a share for comparison."""
    SHADOWED = "shadowed"
    """A shadow was ended by a person or its time, and may be rolled out."""


class Rollout(NamedTuple):
    """A rollout as the store keeps it."""

    rollout_id: int
    """Number of the audit entry that started it."""
    model: str
    kind: Kind
    challenger: int
    challenger_digest: str
    control: int
    control_digest: str
    policy_json: str
    """Canonical."""
    salt: str
    """16 random bytes, in hexadecimal digits."""
    started_by: str
    started_ns: int
    phase: Phase
    step: int
    """Index of the canary's step; that of the last one during the holdback."""
    weight_bps: int
    """The challenger's share of the traffic."""
    phase_since_ns: int
    """Moved on by pauses, as is `step_since_ns`."""
    step_since_ns: int
    sequence: int
    """The newest audit entry that changed what the route table says of it."""
    judges_json: str = "[]"
    """Ids of the gateways that may judge alone: a slot is never given twice."""
    score_edges_json: str = "[]"
    """The control's score deciles, frozen when the canary began."""
    paused_ns: int = 0
    """When it was paused; 0 while it is not."""
    without_evidence: bool = False
    outcome: Outcome = Outcome.RUNNING
    ended_ns: int = 0
    reason: str = ""

    @property
    def subject(self) -> str:
        """Its name in messages and in the audit trail."""
        return f"{self.model}/{self.challenger}"

    @property
    def policy(self) -> Policy:
        """Its promise."""
        return Policy.model_validate_json(self.policy_json)


class Move(NamedTuple):
    """What a decision makes of a rollout and of its model's versions, in an order in which no two hold one place."""

    rollout: Rollout
    versions: tuple[VersionRecord, ...] = ()


STANDING: Final = frozenset({Stage.CHAMPION, Stage.STANDBY})


def check_comparable(challenger: VersionRecord, control: VersionRecord) -> None:
    """Raises Fault where the two cannot answer the same calls: then no comparison would mean anything."""
    new, old = challenger.document, control.document
    problem = _incomparable(new, old)
    if problem:
        raise Fault(
            Reason.ROLLOUT_REFUSED,
            f"{challenger.subject} cannot be compared with {control.subject}, which answers now: {problem}",
            key=problem.split(":")[0],
        )


def _incomparable(new: ModelDocument, old: ModelDocument) -> str:
    if new.task is not old.task:
        return f"task: {new.task} and not {old.task}; a model with another task needs another name"
    if set(new.entities) != set(old.entities):
        return f"entities: callers send the keys of {', '.join(old.entities) or 'none'}"
    if (new.assign_by or new.entities[:1]) != (old.assign_by or old.entities[:1]):
        return "assign_by: both must be assigned by the same entity"
    sent = {item.request: item for item in old.requested}
    for item in new.requested:
        if problem := _unsent(item, sent.get(item.request)):
            return problem
    return ""


def _unsent(item: RequestInput, known: RequestInput | None) -> str:
    if known is None:
        missing = "callers do not send it yet, and it has no default; declare one, or register under another name"
        return f"inputs.{item.request}: {missing}" if item.default is None else ""
    if known.type is not item.type:
        return f"inputs.{item.request}: callers send it as {known.type}, and not as {item.type}"
    if item.default is None and known.default is not None:
        return f"inputs.{item.request}: callers may leave it out, and it has no default"
    return ""


def begin(rollout: Rollout, challenger: VersionRecord) -> Move:
    """The first move: into shadow, or into the first step where the policy has no shadow."""
    if rollout.kind is Kind.ROLLOUT and rollout.policy.shadow is None:
        return _into_step(rollout, 0, rollout.started_ns, challenger)
    return Move(rollout, (moved(challenger, Event.SHADOW),))


def advanced(rollout: Rollout, versions: Sequence[VersionRecord], now_ns: int) -> Move:
    """The next move forward: the first step, the next one, promotion, or the end of the holdback.

    `versions` are the challenger and whoever is champion and standby.
    """
    challenger = _challenger(rollout, versions)
    steps = rollout.policy.steps
    match rollout.phase:
        case Phase.SHADOW if rollout.kind is Kind.SHADOW:
            return Move(ended(rollout, Outcome.SHADOWED, now_ns), (moved(challenger, Event.RELEASE),))
        case Phase.SHADOW:
            return _into_step(rollout, 0, now_ns, challenger)
        case Phase.CANARY if rollout.step + 1 < len(steps):
            return _into_step(rollout, rollout.step + 1, now_ns)
        case Phase.CANARY:
            return promoted(rollout, versions, now_ns)
        case Phase.HOLDBACK:
            return Move(ended(rollout, Outcome.PROMOTED, now_ns))


def promoted(rollout: Rollout, versions: Sequence[VersionRecord], now_ns: int) -> Move:
    """The challenger becomes the champion, from wherever the rollout stands; the control keeps the holdback's share."""
    challenger = _challenger(rollout, versions)
    moves = promotion_moves(challenger, [one for one in versions if one.stage in STANDING])
    holdback = rollout.policy.holdback
    if holdback is None:
        return Move(ended(rollout, Outcome.PROMOTED, now_ns), tuple(moves))
    held = rollout._replace(
        phase=Phase.HOLDBACK,
        step=len(rollout.policy.steps) - 1,
        weight_bps=WHOLE_BPS - holdback.share_bps,
        phase_since_ns=now_ns,
        step_since_ns=now_ns,
        paused_ns=0,
    )
    return Move(held, tuple(moves))


def back(rollout: Rollout, versions: Sequence[VersionRecord], outcome: Outcome, now_ns: int) -> Move:
    """The end of a rollout against its challenger: the control answers alone."""
    challenger = _challenger(rollout, versions)
    event = Event.QUARANTINE if outcome is Outcome.QUARANTINED else Event.ROLL_BACK
    if rollout.kind is Kind.SHADOW and outcome is Outcome.ROLLED_BACK:
        return Move(ended(rollout, Outcome.SHADOWED, now_ns), (moved(challenger, Event.RELEASE),))
    if rollout.phase is not Phase.HOLDBACK:
        return Move(ended(rollout, outcome, now_ns), (moved(challenger, event),))
    control = next(one for one in versions if one.version == rollout.control)
    return Move(ended(rollout, outcome, now_ns), tuple(rollback_moves(challenger, control, event)))


def released(rollout: Rollout, versions: Sequence[VersionRecord], now_ns: int) -> Move:
    """The end of a rollout in shadow that says nothing of its challenger."""
    challenger = _challenger(rollout, versions)
    return Move(ended(rollout, Outcome.SUPERSEDED, now_ns), (moved(challenger, Event.RELEASE),))


def ended(rollout: Rollout, outcome: Outcome, now_ns: int) -> Rollout:
    """The rollout as it is kept when it is over."""
    return rollout._replace(outcome=outcome, ended_ns=now_ns, paused_ns=0)


def resumed(rollout: Rollout, now_ns: int) -> Rollout:
    """A paused rollout that goes on: the time of the pause does not count."""
    pause_ns = now_ns - rollout.paused_ns
    return rollout._replace(
        paused_ns=0,
        phase_since_ns=rollout.phase_since_ns + pause_ns,
        step_since_ns=rollout.step_since_ns + pause_ns,
    )


def _into_step(rollout: Rollout, index: int, now_ns: int, challenger: VersionRecord | None = None) -> Move:
    fresh = rollout._replace(
        phase=Phase.CANARY,
        step=index,
        weight_bps=rollout.policy.steps[index].weight_bps,
        step_since_ns=now_ns,
        phase_since_ns=rollout.phase_since_ns if challenger is None else now_ns,
    )
    return Move(fresh, () if challenger is None else (moved(challenger, Event.CANARY),))


def _challenger(rollout: Rollout, versions: Sequence[VersionRecord]) -> VersionRecord:
    return next(one for one in versions if one.version == rollout.challenger)
