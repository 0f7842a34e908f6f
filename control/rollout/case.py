"""What the judge is given, and what it answers: values that the audit trail keeps, so that any judgement can be made
again from them, bit for bit."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from control.rollout.policy import Metric
from gateway.contract.evidence import Arms
from gateway.contract.schema import Document

Count = Annotated[int, Field(ge=0)]
Weight = Annotated[int, Field(ge=0, le=10_000)]
ArmCounts = dict[Weight, Arms]
"""Counts by the weight in force, in basis points: [challenger, champion]."""


class Phase(StrEnum):
    """Where a rollout stands."""

    SHADOW = "shadow"
    CANARY = "canary"
    HOLDBACK = "holdback"


class Verdict(StrEnum):
    """The three answers."""

    ADVANCE = "advance"
    HOLD = "hold"
    ROLL_BACK = "roll_back"


class Cause(StrEnum):
    """What the verdict rests on."""

    HARM = "harm"
    EXCEPTIONS = "exceptions"
    TIME_IS_UP = "time_is_up"
    ROUTER = "router"
    PAUSED = "paused"
    UNMEASURED = "unmeasured"
    TOO_EARLY = "too_early"
    UNPROVEN = "unproven"
    UNAPPROVED = "unapproved"
    PROVEN = "proven"
    ENDED = "ended"


class StepCounts(Document):
    """One gate's units by their first scored row in the step, bad or not."""

    scored: ArmCounts = Field(default_factory=dict)
    """All of them."""
    bad: ArmCounts = Field(default_factory=dict)
    """Those whose first scored row was bad."""


class Evidence(Document):
    """The integers, each unit once, kept over all gateways and restarts."""

    first_bad: dict[Metric, ArmCounts] = Field(default_factory=dict)
    """Per metric: units by their first bad event in the rollout. Of `labels` and `business` likewise, by arrival."""
    told: dict[Metric, ArmCounts] = Field(default_factory=dict)
    """Of `labels` and `business`: units by their first outcome in the rollout, bad or not. Whoever reports outcomes of
    one arm and not of the other feigns harm, or hides it."""
    step: dict[Metric, StepCounts] = Field(default_factory=dict)
    """Per gate, anew at each step."""
    assigned: ArmCounts = Field(default_factory=dict)
    """Units by their first scored row in the step: what the router's self-test counts."""
    score_bins: tuple[ArmCounts, ...] = ()
    """The same, per bin of the score."""
    slow_runs: tuple[Arms, ...] = ()
    """Per latency threshold: mirrored runs beyond it."""
    mistaken_alone: Arms = Arms()
    """Labelled pairs of the shadow in which one version alone was wrong."""


class ShadowReport(Document):
    """The mirror's comparison since the shadow began."""

    pairs: Count = 0
    """Rows scored by both versions."""
    exceptions: Count = 0
    """Rows on which the challenger failed or was not finite while the champion was well."""
    flips: Count = 0
    """Pairs that were decided otherwise."""
    champion_p99_ns: Count = 0
    """The champion's mirrored p99."""
    challenger_p99_ns: Count = 0
    """The challenger's."""


class Flags(Document):
    """What else keeps a rollout where it is."""

    paused: bool = False
    """A person paused it."""
    lost_rows: Count = 0
    """Journal rows that were overwritten in this step before anybody read them."""
    unwatched: tuple[str, ...] = ()
    """Gateways with traffic from which no evidence came lately."""
    without_evidence: bool = False
    """Promoted against HOLD by a person: only deterministic guards may undo that, and harm becomes an alert."""


class Case(Document):
    """Everything that one judgement rests on, beside the policy."""

    phase: Phase
    """Where the rollout stands."""
    step: Count = 0
    """In canary: the index of the step."""
    elapsed_ns: Count
    """Nanoseconds since the phase began, without pauses."""
    step_elapsed_ns: Count = 0
    """Nanoseconds since the step began, without pauses."""
    approved: bool
    """Whether the next move is covered by the approvals that hold now."""
    evidence: Evidence = Evidence()
    """The integers."""
    shadow: ShadowReport = ShadowReport()
    """The mirror's comparison."""
    flags: Flags = Flags()
    """What else keeps it."""


class Finding(Document):
    """One test's result."""

    metric: Metric | Literal["router"]
    """What was tested."""
    test: Literal["harm", "relative", "ceiling", "shift", "ratio"]
    """Against what: harm and relative the ratio of the arms, ceiling a fixed rate."""
    log_e: float
    """Natural logarithm of the e-value."""
    threshold: float
    """What it must reach."""
    reached: bool
    """Whether it did."""
    counts: Arms
    """Over all weights: bad units per arm; for a ceiling, bad and scored units of the challenger."""


class Judgement(Document):
    """An answer with its reason."""

    verdict: Verdict
    """What to do."""
    cause: Cause
    """What it rests on."""
    sentence: str
    """For people, with the numbers."""
    needs_person: bool = False
    """Whether nothing will move until somebody acts."""
    alerts: tuple[str, ...] = ()
    """What people should know, although it moves nothing."""
    findings: tuple[Finding, ...] = ()
    """All tests, in order."""
