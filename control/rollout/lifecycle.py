"""The life of a version, as data. Who may make a move, and what follows from it, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from gateway.contract.errors import Fault, Reason


class Stage(StrEnum):
    """Where a version stands."""

    REGISTERED = "registered"
    REJECTED = "rejected"
    APPROVED = "approved"
    SHADOW = "shadow"
    CANARY = "canary"
    CHAMPION = "champion"
    STANDBY = "standby"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


class Event(StrEnum):
    """What moves it."""

    APPROVE = "approve"
    REJECT = "reject"
    SHADOW = "shadow"
    CANARY = "canary"
    RELEASE = "release"
    PROMOTE = "promote"
    SUPERSEDE = "supersede"
    ROLL_BACK = "roll_back"
    QUARANTINE = "quarantine"
    REINSTATE = "reinstate"
    RETIRE = "retire"


TRANSITIONS: Final[Mapping[tuple[Stage, Event], Stage]] = MappingProxyType(
    {
        (Stage.REGISTERED, Event.APPROVE): Stage.APPROVED,
        (Stage.REGISTERED, Event.REJECT): Stage.REJECTED,
        (Stage.APPROVED, Event.SHADOW): Stage.SHADOW,
        (Stage.APPROVED, Event.CANARY): Stage.CANARY,
        (Stage.APPROVED, Event.PROMOTE): Stage.CHAMPION,
        (Stage.STANDBY, Event.SHADOW): Stage.SHADOW,
        (Stage.STANDBY, Event.CANARY): Stage.CANARY,
        (Stage.SHADOW, Event.CANARY): Stage.CANARY,
        (Stage.SHADOW, Event.RELEASE): Stage.APPROVED,
        (Stage.SHADOW, Event.PROMOTE): Stage.CHAMPION,
        (Stage.SHADOW, Event.ROLL_BACK): Stage.ROLLED_BACK,
        (Stage.SHADOW, Event.QUARANTINE): Stage.QUARANTINED,
        (Stage.CANARY, Event.PROMOTE): Stage.CHAMPION,
        (Stage.CANARY, Event.ROLL_BACK): Stage.ROLLED_BACK,
        (Stage.CANARY, Event.QUARANTINE): Stage.QUARANTINED,
        (Stage.CHAMPION, Event.QUARANTINE): Stage.QUARANTINED,
        (Stage.QUARANTINED, Event.APPROVE): Stage.APPROVED,
        (Stage.QUARANTINED, Event.RETIRE): Stage.RETIRED,
        (Stage.STANDBY, Event.PROMOTE): Stage.CHAMPION,
        (Stage.CHAMPION, Event.SUPERSEDE): Stage.STANDBY,
        (Stage.STANDBY, Event.SUPERSEDE): Stage.APPROVED,
        (Stage.CHAMPION, Event.ROLL_BACK): Stage.ROLLED_BACK,
        (Stage.STANDBY, Event.REINSTATE): Stage.CHAMPION,
        (Stage.APPROVED, Event.REINSTATE): Stage.CHAMPION,
        (Stage.ROLLED_BACK, Event.APPROVE): Stage.APPROVED,
        (Stage.ROLLED_BACK, Event.RETIRE): Stage.RETIRED,
        (Stage.REGISTERED, Event.RETIRE): Stage.RETIRED,
        (Stage.REJECTED, Event.RETIRE): Stage.RETIRED,
        (Stage.APPROVED, Event.RETIRE): Stage.RETIRED,
        (Stage.STANDBY, Event.RETIRE): Stage.RETIRED,
    }
)

LIVE: Final = frozenset({Stage.CANARY, Stage.CHAMPION})
"""The stages in which a version's answers reach callers."""

UNDONE: Final = frozenset({Stage.ROLLED_BACK, Stage.QUARANTINED})
"""The stages that void the approvals given before."""

STATUS: Final[Mapping[Stage, str]] = MappingProxyType(
    {
        Stage.REGISTERED: "development",
        Stage.REJECTED: "development",
        Stage.ROLLED_BACK: "development",
        Stage.QUARANTINED: "development",
        Stage.APPROVED: "staging",
        Stage.SHADOW: "staging",
        Stage.CANARY: "production",
        Stage.CHAMPION: "production",
        Stage.STANDBY: "production",
        Stage.RETIRED: "archived",
    }
)
"""The stage in the words of operators."""


def advance(stage: Stage, event: Event, subject: str) -> Stage:
    """The stage that follows, or a fault that names the stage and what it allows."""
    try:
        return TRANSITIONS[stage, event]
    except KeyError:
        allowed = [allowed for (from_stage, allowed) in TRANSITIONS if from_stage is stage]
        raise Fault(
            Reason.TRANSITION_REFUSED,
            f"{subject} is {stage}, which does not allow to {event} it; "
            + (f"it allows: {', '.join(allowed)}" if allowed else "nothing follows that stage"),
            stage=stage,
            event=event,
        ) from None
