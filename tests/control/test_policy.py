"""Policies: what a tier starts with, what people change, how errors name their key, and what a policy will take."""

from __future__ import annotations

import math

import pytest

from control.rollout.forecast import Traffic, forecast
from control.rollout.policy import Metric, Policy, Role, Unit
from control.rollout.tiers import BAD_EVENTS, DEFAULTS, default_policy, read_policy
from gateway.contract.document import ModelDocument, Task, Tier
from gateway.contract.errors import Fault, Reason

CHURN = {
    "name": "churn",
    "task": "binary",
    "purpose": "finds who leaves",
    "owner": {"person": "ana"},
    "entities": ["subscriber"],
    "inputs": [{"request": "calls", "type": "float32", "feeds": "x"}],
    "output": {"score": "p"},
    "decision": {"kind": "threshold", "threshold": 0.5, "hit": "call", "otherwise": "leave"},
    "outcome": {"label": "churned", "window_days": 30},
}


def model(**changes: object) -> ModelDocument:
    """A model of which something may be different."""
    return ModelDocument.model_validate(CHURN | changes)


@pytest.mark.parametrize("tier", Tier)
def test_every_tier_has_a_whole_policy(tier: Tier) -> None:
    """Nothing needs to be written; its text and hash are the same each time, and it is read back as it was."""
    policy = default_policy(model(tier=tier))
    assert [metric for metric, _ in policy.gates()] == [Metric.ERRORS, Metric.NON_FINITE]
    assert Policy.model_validate_json(policy.canonical()) == policy
    assert policy.digest() == read_policy("{}", model(tier=tier)).digest()
    assert Policy.model_validate(DEFAULTS[tier]).alpha == 0.01


def test_a_text_changes_what_it_says_and_keeps_the_rest() -> None:
    """Mappings key by key; what a gate must show as a whole; null leaves out."""
    policy = read_policy(
        """
alpha: 0.02
steps: [{weight_bps: 1000}]
holdback: null
metrics:
  errors: {advance: {relative: {margin: 2.0}}}
  non_finite: {role: guard}
  decisions: null
  business: {kpi: revenue, bad_below: 1}
""",
        model(),
    )
    errors = policy.metrics.errors
    assert errors is not None
    assert errors.advance is not None
    assert (errors.alpha_share_pct, errors.advance.ceiling) == (35, None)
    assert policy.metrics.non_finite is not None
    assert policy.metrics.non_finite.role is Role.GUARD
    assert (policy.metrics.decisions, policy.holdback, policy.alpha) == (None, None, 0.02)
    assert policy.metrics.business is not None
    assert policy.alpha_of(35) == pytest.approx(0.007)
    assert [step.weight_bps for step in policy.steps] == [1_000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha: 2", "line 1: alpha: input should be less than or equal to 0.2"),
        ("nonsense: 1", "nonsense: is not a known key"),
        ("metrics:\n  errors:\n    rho: much", "line 3: metrics.errors.rho"),
        (
            "metrics:\n  errors:\n    advance:\n      ceiling: {max_bad_rate: 5}",
            "line 4: metrics.errors.advance.ceiling.max",
        ),
        ("metrics: {errors: {advance: {}}}", "metrics.errors.advance: a gate needs one of"),
        ("metrics: {rejected: {advance: {ceiling: {}}}}", "metrics.rejected.advance: a guard cannot advance"),
        ("metrics: {errors: {role: guard}, non_finite: null}", "metrics: at least one must be a gate"),
        ("metrics: {latency: {alpha_share_pct: 90}}", "the alpha shares sum to 170 %"),
        ("metrics: {errors: {unit: request}}", "metrics.errors.unit: must be `entity`"),
        ("steps: [{weight_bps: 500}, {weight_bps: 500}]", "steps: each weight must be larger"),
        ("steps: []", "steps"),
        ("steps:\n  - weight_bps: 10000", "line 2: steps.0.weight_bps"),
        ("maximum_s: 60", "maximum_s: the steps' minimum times do not fit"),
        ("at_maximum: promote", "at_maximum: input should be 'hold' or 'back'"),
        ("metrics: {business: {kpi: revenue}}", "metrics.business.bad_below: is missing"),
        ("alpha: 0.01\nalpha: 0.02", "alpha: is there twice"),
    ],
)
def test_an_error_names_its_key(text: str, message: str) -> None:
    """And its line, where the text has one."""
    with pytest.raises(Fault, match="the rollout policy") as caught:
        read_policy(text, model())
    assert caught.value.reason is Reason.DOCUMENT_INVALID
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        ({"outcome": None}, "metrics: {labels: {}}", "metrics.labels: the model document has no outcome"),
        (
            {"decision": {"kind": "none"}},
            "metrics: {decisions: {}}",
            "metrics.decisions: the model document has no decision",
        ),
        ({"task": "regression"}, "alpha: 0.01", "metrics.labels.error_above: say beyond which"),
        ({"entities": []}, "metrics: {errors: {unit: entity}}", "metrics.errors.unit: must be `request`"),
    ],
)
def test_a_policy_that_does_not_fit_its_model_is_refused(changes: dict[str, object], text: str, message: str) -> None:
    """With the key, and what of the model contradicts it."""
    with pytest.raises(Fault) as caught:
        read_policy(text, model(**changes))
    assert message in caught.value.message


def test_defaults_leave_out_what_a_model_cannot_have() -> None:
    """Without an outcome no labels, without a decision none of it, and without entities each request counts."""
    policy = default_policy(model(outcome=None, decision={"kind": "none"}, entities=[]))
    assert policy.metrics.labels is policy.metrics.decisions is None
    assert {bad.unit for _, bad in policy.metrics.bad()} == {Unit.REQUEST}


def test_every_metric_says_what_its_bad_event_is() -> None:
    """For all tasks, but decisions, which multiclass and ranking models have no bad ones of."""
    for metric in Metric:
        missing = set(Task) - set(BAD_EVENTS[metric])
        assert missing == ({Task.MULTICLASS, Task.RANKING} if metric is Metric.DECISIONS else set())


BUSY = Traffic(500, 200_000, {Metric.ERRORS: 0.001, Metric.LABELS: 0.05})


def test_a_forecast_says_how_long_each_step_takes_and_when_harm_is_caught() -> None:
    """More harm is caught sooner, and each step lasts at least its minimum."""
    policy = default_policy(model())
    found = forecast(policy, BUSY)
    assert [step.weight_bps for step in found.steps] == [100, 500, 2_500, 5_000]
    assert all(a.seconds >= b.minimum_s for a, b in zip(found.steps, policy.steps, strict=True))
    assert found.seconds < policy.maximum_s
    assert not found.warnings
    caught = {(catch.metric, catch.times_as_bad): catch.seconds for catch in found.catches}
    for metric in (Metric.ERRORS, Metric.LABELS):
        assert caught[metric, 5.0] < caught[metric, 2.0] < policy.maximum_s


def test_a_forecast_warns_when_too_few_entities_call_or_too_many_rows_are_bad() -> None:
    """Naming the step and what it waits for."""
    policy = default_policy(model())
    for traffic in (Traffic(50, 1_000, {}), Traffic(500, 200_000, {Metric.ERRORS: 0.02})):
        found = forecast(policy, traffic)
        assert math.isinf(found.seconds)
        assert found.warnings[0].startswith("The step at 1 % cannot pass errors")


def test_a_forecast_warns_when_the_canary_will_not_end_in_time() -> None:
    """Slow traffic of ever new entities."""
    found = forecast(default_policy(model()), Traffic(0.05, 180, {}))
    assert math.isfinite(found.seconds)
    assert "longer than its maximum of 168.0 h" in found.warnings[0]


def test_a_forecast_of_a_relative_gate_needs_bad_events() -> None:
    """At a larger weight it takes less; without any bad event, or with too few entities to have them, it never does."""
    policy = read_policy(
        "metrics: {errors: {advance: {relative: {margin: 1.5}}}}\n"
        "steps: [{weight_bps: 500, minimum_s: 0}, {weight_bps: 5000, minimum_s: 0}]",
        model(),
    )
    found = forecast(policy, BUSY._replace(entities_per_hour=1_000_000))
    assert found.steps[0].waits_for == "errors"
    assert found.steps[1].seconds < found.steps[0].seconds < math.inf
    assert math.isinf(forecast(policy, BUSY._replace(bad_rates={})).seconds)
    assert math.isinf(forecast(policy, BUSY).seconds)
