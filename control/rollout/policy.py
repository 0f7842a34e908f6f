"""The promise made before a rollout's first request: who is asked, what counts against it, and when it moves.

Pure, and complete: a policy says everything that the judge takes into account beside the evidence. People write as
much of it as they want in YAML; `tiers` fills in the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from gateway.contract.schema import Document, Name

Probability = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[int, Field(ge=0, le=366 * 86_400)]
Ratio = Annotated[float, Field(ge=1, le=100)]


class Metric(StrEnum):
    """What is counted against a challenger."""

    ERRORS = "errors"
    NON_FINITE = "non_finite"
    REJECTED = "rejected"
    DECISIONS = "decisions"
    LATENCY = "latency"
    LABELS = "labels"
    BUSINESS = "business"
    SCORES = "scores"


class Role(StrEnum):
    """What a metric may do."""

    GUARD = "guard"
    GATE = "gate"


class Unit(StrEnum):
    """What was assigned to an arm, and therefore counts once."""

    ENTITY = "entity"
    REQUEST = "request"


class AtMaximum(StrEnum):
    """What happens when the time is up."""

    HOLD = "hold"
    BACK = "back"


class _Part(Document):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Relative(_Part):
    """Passes on evidence that bad events are less than `margin` times as likely in the challenger."""

    margin: Annotated[float, Field(gt=1, le=100)] = 1.5
    """How many times as likely they may not be."""
    beta: Probability = 0.05
    """Probability of passing a challenger at the margin or beyond it."""


class Ceiling(_Part):
    """Passes on evidence that the challenger's rate of bad first scored rows lies under a ceiling."""

    max_bad_rate: Probability = 0.005
    """The ceiling, as a share of rows."""
    beta: Probability = 0.05
    """Probability of passing a challenger whose rate is at the ceiling or above it."""


class Advance(_Part):
    """What a gate asks for before a step ends: one of the two."""

    relative: Relative | None = None
    """Against the champion. Two arms without any bad event never pass it."""
    ceiling: Ceiling | None = None
    """Against a fixed rate. An incident that strikes both arms keeps it from passing while it lasts."""


class Bad(_Part):
    """A metric of bad events."""

    role: Role = Role.GUARD
    """`guard` can only roll back; `gate` must also pass before a step advances."""
    alpha_share_pct: Annotated[int, Field(ge=1, le=100)] = 10
    """Its part of the rollout's alpha, in percent; the parts sum to at most 100."""
    rho: Ratio = 1.1
    """How many times as likely bad events may be in the challenger before that is harm."""
    unit: Unit = Unit.ENTITY
    """What counts once: `entity` where the assignment sticks to it, `request` only for models without an entity."""
    sample_bps: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Share of the units, chosen by their hash, that count, in basis points: dense metrics need not count all."""
    advance: Advance | None = None
    """For a gate: what it must show."""


class Labels(Bad):
    """Mistakes that outcomes show. In shadow they are judged in pairs, in canary by arms, each at half of the share."""

    error_above: Annotated[float, Field(gt=0)] | None = None
    """For regression: the absolute error beyond which a score counts as a mistake."""


class Business(Bad):
    """A business result of the outcome that stayed away."""

    alpha_share_pct: Annotated[int, Field(ge=1, le=100)] = 5
    """Its part of the rollout's alpha, in percent."""
    kpi: Name
    """Which of the outcome's figures."""
    bad_below: float
    """The result is bad under this value."""


class Latency(_Part):
    """How long runs take in the mirror, where both versions run the same rows alone, in an order drawn by a coin."""

    alpha_share_pct: Annotated[int, Field(ge=1, le=100)] = 15
    """Its part of the rollout's alpha, in percent."""
    rho: Ratio = 1.1
    """How many times as often as the champion a challenger may be beyond a threshold before that is harm."""
    slack: Annotated[float, Field(ge=1, le=100)] = 1.2
    """The thresholds are the champion's p50, p90 and p99, frozen at the start, times this."""
    slo_ms: Annotated[float, Field(gt=0)] | None = None
    """A fourth threshold, in milliseconds; twice the third when absent."""


class Scores(_Part):
    """How scores are distributed over the champion's frozen deciles. A new model is meant to move them: an alert."""

    alpha: Probability = 0.001
    """Probability of a false alert in a step; it takes nothing from the rollout's alpha."""


class Metrics(_Part):
    """What is counted. A metric that is not named is as the tier has it; `null` leaves it out."""

    errors: Bad | None = None
    """Runs of the challenger that failed or timed out, whoever answered in the end."""
    non_finite: Bad | None = None
    """Scores that are NaN or infinite."""
    rejected: Bad | None = None
    """Rows that the version refused, for a missing or unsuitable input."""
    decisions: Bad | None = None
    """Decisions for what the model looks for; both a rise and a fall beyond rho count."""
    latency: Latency | None = None
    """Mirrored runs beyond the champion's frozen quantiles."""
    labels: Labels | None = None
    """Mistakes that outcomes show."""
    business: Business | None = None
    """A business result that stayed away."""
    scores: Scores | None = None
    """The score's distribution."""

    def bad(self) -> Iterator[tuple[Metric, Bad]]:
        """The metrics of bad events that are counted, in the order in which they are judged."""
        for metric in (Metric.ERRORS, Metric.NON_FINITE, Metric.REJECTED, Metric.DECISIONS):
            if (found := getattr(self, metric)) is not None:
                yield metric, found
        if self.labels is not None:
            yield Metric.LABELS, self.labels
        if self.business is not None:
            yield Metric.BUSINESS, self.business


class Shadow(_Part):
    """When a version may leave the shadow."""

    pairs: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Rows scored by both versions."""
    max_exceptions: Annotated[int, Field(ge=0)] = 0
    """Rows on which the challenger failed or was not finite while the champion was well; one more ends the rollout."""
    max_flip_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of rows that may be decided otherwise; the upper bound of the rate must be under it."""
    max_latency_ratio: Annotated[float, Field(gt=0, le=100)] = 1.2
    """The challenger's p99 over the champion's."""
    maximum_s: Seconds = 3 * 86_400
    """Seconds in shadow after which `at_maximum` says what happens."""


class Step(_Part):
    """One weight of the canary."""

    weight_bps: Annotated[int, Field(ge=1, le=9_999)]
    """Share of entities that the challenger answers, in basis points."""
    minimum_s: Seconds = 600
    """Seconds to stay at it at least."""


class Holdback(_Part):
    """What stays with the previous version after promotion, so that there goes on being something to compare with."""

    share_bps: Annotated[int, Field(ge=1, le=5_000)] = 100
    """Share of entities, in basis points."""
    maximum_s: Seconds = 14 * 86_400
    """Seconds after which it ends."""


class Policy(_Part):
    """The whole promise of one rollout."""

    format: Literal[1] = 1
    """Format of this document."""
    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Probability of rolling back a version that does no harm, over the whole rollout and all metrics together."""
    gateway_slots: Annotated[int, Field(ge=1, le=64)] = 8
    """How many gateways may judge alone. The control plane has half of alpha, each slot an equal part of the rest."""
    router_alpha: Probability = 0.001
    """Probability in a step of finding the assignment broken when it is not; it takes nothing from alpha."""
    mirrored_share_bps: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Share of scored rows that the mirror offers to the other version, in basis points; what it cannot take is
    dropped and counted."""
    shadow: Shadow | None = Shadow()
    """The exit rule of the shadow; `null` goes without one."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=32)]
    """The canary's weights, rising; after the last one the version is promoted."""
    metrics: Metrics
    """What is counted, and what it may do."""
    maximum_s: Seconds = 7 * 86_400
    """Seconds from the start of the canary after which `at_maximum` says what happens."""
    at_maximum: AtMaximum = AtMaximum.BACK
    """When time is up: `back` rolls back, `hold` keeps the weight and asks for a person."""
    holdback: Holdback | None = Holdback()
    """What stays with the previous version after promotion; `null` for nothing."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self

    def alpha_of(self, share_pct: int) -> float:
        """A metric's part of alpha."""
        return self.alpha * share_pct / 100

    def gates(self) -> list[tuple[Metric, Bad]]:
        """The metrics that must pass before a step advances."""
        return [(metric, bad) for metric, bad in self.metrics.bad() if bad.role is Role.GATE]


def _contradictions(policy: Policy) -> Iterator[str]:
    weights = [step.weight_bps for step in policy.steps]
    if weights != sorted(set(weights)):
        yield "steps: each weight must be larger than the one before"
    if sum(step.minimum_s for step in policy.steps) > policy.maximum_s:
        yield "maximum_s: the steps' minimum times do not fit into it"
    for metric, bad in policy.metrics.bad():
        chosen = [rule for rule in (bad.advance.relative, bad.advance.ceiling) if rule] if bad.advance else []
        if bad.role is Role.GATE and len(chosen) != 1:
            yield f"metrics.{metric}.advance: a gate needs one of `relative` and `ceiling`"
        if bad.role is Role.GUARD and bad.advance is not None:
            yield f"metrics.{metric}.advance: a guard cannot advance anything; say `role: gate`, or leave it out"
    if not policy.gates():
        yield "metrics: at least one must be a gate, or nothing would ever show that a step may end"
    shares = [bad.alpha_share_pct for _, bad in policy.metrics.bad()]
    shares += [policy.metrics.latency.alpha_share_pct] if policy.metrics.latency else []
    if sum(shares) > 100:
        yield f"metrics: the alpha shares sum to {sum(shares)} %, which is more than 100 %"
