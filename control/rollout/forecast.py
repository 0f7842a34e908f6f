"""What a policy will take with the traffic that there is: how long each step, and how long until harm is caught. Pure.

Expectations, not promises: evidence grows by the information in each new unit (for bad events, the Kullback-Leibler
divergence of the arm's odds from those at the boundary), and entities run out, because each counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from control.rollout.policy import Bad, Metric, Policy, Step
from gateway.contract import ceiling
from gateway.contract.alone import central_alpha
from gateway.contract.evidence import threshold
from gateway.contract.population import population
from gateway.contract.routing import WHOLE_BPS

HOUR_S: Final = 3_600
LEARNING: Final = 2.0
"""What the grid of supposed ratios costs over knowing the ratio, in nats."""
HARMS: Final = (2.0, 5.0)
"""How many times as many bad events, for the times to catch them."""


class Traffic(NamedTuple):
    """What a model's requests were like lately."""

    requests_per_s: float
    entities_per_hour: float
    """Distinct entities in an hour; the requests, for a model without entities."""
    bad_rates: Mapping[Metric, float]
    """Share of rows that are bad in the champion."""


def summed(parts: Sequence[Traffic]) -> Traffic:
    """The traffic of several gateways as one: an entity may reach any of them, so the largest count of them is taken
    for no less than there are, and the sum for no more."""
    rows = math.fsum(part.requests_per_s for part in parts)
    metrics = sorted({metric for part in parts for metric in part.bad_rates})
    rates = {
        metric: math.fsum(part.bad_rates.get(metric, 0.0) * part.requests_per_s for part in parts) / (rows or 1.0)
        for metric in metrics
    }
    return Traffic(rows, max((part.entities_per_hour for part in parts), default=0.0), rates)


class StepTime(NamedTuple):
    """How long a step is expected to take."""

    weight_bps: int
    seconds: float
    """Infinite where it cannot pass."""
    waits_for: str
    """What takes longest: a gate's metric, or the minimum time."""


class CatchTime(NamedTuple):
    """How long until so much harm is rolled back by its evidence; for labels and business results, beside the time
    that they take to arrive."""

    metric: Metric
    times_as_bad: float
    seconds: float
    """From the start of the canary; infinite where it never is."""


class Forecast(NamedTuple):
    """The whole of it."""

    steps: tuple[StepTime, ...]
    catches: tuple[CatchTime, ...]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """From the start of the canary to promotion."""
        return math.fsum(step.seconds for step in self.steps)


def forecast(policy: Policy, traffic: Traffic) -> Forecast:
    """What to expect of the canary of a sound version, and of one that does harm."""
    units = _Units(traffic)
    steps = tuple(_step_time(policy, step, units, 1.0, None) for step in policy.steps)
    catches = tuple(
        CatchTime(metric, times, _catch_s(policy, metric, bad, units, times))
        for metric, bad in policy.metrics.bad()
        if traffic.bad_rates.get(metric, 0) > 0
        for times in HARMS
    )
    return Forecast(steps, catches, tuple(_warnings(policy, steps, catches)))


class _Units:
    """How fast new entities come: each of a population calls at random, as often as the last hour says."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        hourly = traffic.requests_per_s * HOUR_S
        self.population = population(hourly, min(traffic.entities_per_hour, hourly))

    def seconds_until(self, units: float, share: float = 1.0) -> float:
        """Until so many units had a row of a kind that is this share of all rows."""
        rate = self.traffic.requests_per_s * share
        if units <= 0:
            return 0.0
        if units >= self.population or rate <= 0:
            return math.inf
        if math.isinf(self.population):
            return units / rate
        return -math.log1p(-units / self.population) * self.population / rate


def _step_time(policy: Policy, step: Step, units: _Units, times: float, harmed: Metric | None) -> StepTime:
    waits = StepTime(step.weight_bps, float(step.minimum_s), "minimum time")
    for metric, bad in policy.gates():
        rate = units.traffic.bad_rates.get(metric, 0.0) * (times if metric is harmed else 1.0)
        seconds = units.seconds_until(_units_to_pass(bad, step.weight_bps / WHOLE_BPS, min(rate, 1.0)))
        if seconds > waits.seconds:
            waits = StepTime(step.weight_bps, seconds, metric.value)
    return waits


def _units_to_pass(bad: Bad, w: float, rate: float) -> float:
    """Units over both arms until the gate passes a version whose rate this is, in the champion too."""
    rule = bad.advance
    if rule is not None and rule.ceiling is not None:
        return _rows_to_pass(rule.ceiling.max_bad_rate, rule.ceiling.beta, rate) / w
    if rule is not None and rule.relative is not None and rate > 0:
        events = (threshold(rule.relative.beta) + LEARNING) / _information(w, 1.0, rule.relative.margin)
        return events / rate
    return math.inf


def _rows_to_pass(limit: float, beta: float, rate: float) -> float:
    rows = float(ceiling.clean_rows_needed(limit, beta))
    while ceiling.below(round(rows), round(rows * rate), limit) < threshold(beta):
        rows *= 1.1
        if rows > 1e9:
            return math.inf
    return rows


def _information(w: float, r: float, rho: float) -> float:
    """Nats per bad event against the boundary `rho` when the ratio is `r`."""
    at, boundary = w * r / (w * r + 1 - w), w * rho / (w * rho + 1 - w)
    return at * math.log(at / boundary) + (1 - at) * math.log((1 - at) / (1 - boundary))


def _catch_s(policy: Policy, metric: Metric, bad: Bad, units: _Units, times: float) -> float:
    """Along the ramp: evidence grows at each weight until the step is left, if its gates let it."""
    alpha = central_alpha(policy.alpha_of(bad.alpha_share_pct)) / (2 if metric is Metric.LABELS else 1)
    missing, spent, rate = threshold(alpha) + LEARNING, 0.0, units.traffic.bad_rates[metric]
    for step in policy.steps:
        w = step.weight_bps / WHOLE_BPS
        share = min(rate * (w * times + 1 - w), 1.0)
        events = missing / _information(w, max(times, bad.rho * 1.001), bad.rho)
        stays = _step_time(policy, step, units, times, metric).seconds
        needed = units.seconds_until(events, share)
        if needed <= stays:
            return spent + needed
        missing -= missing * stays / needed if math.isfinite(needed) else 0.0
        spent += stays
    return math.inf


def _warnings(policy: Policy, steps: Sequence[StepTime], catches: Sequence[CatchTime]) -> list[str]:
    found = [
        f"The step at {step.weight_bps / 100:g} % cannot pass {step.waits_for}: too few entities call, or too many of "
        "their rows are bad for what the policy asks."
        for step in steps
        if math.isinf(step.seconds)
    ]
    seconds = math.fsum(step.seconds for step in steps)
    if math.isfinite(seconds) and seconds > policy.maximum_s:
        found.append(
            f"The canary will take about {seconds / HOUR_S:.1f} h, longer than its maximum of "
            f"{policy.maximum_s / HOUR_S:.1f} h: it will end by `at_maximum: {policy.at_maximum}`."
        )
    found += [
        f"{catch.times_as_bad:g} times as many bad events in {catch.metric} are unlikely to be caught in time."
        for catch in catches
        if catch.seconds > policy.maximum_s
    ]
    return found
