"""Simulated traffic of which every rule sees the same, and our rule upon it.

A world has, for each request, its entity and whether it would be bad in the champion and in the challenger. Each rule
assigns entities by its own weights and sees only what its assignment shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from control.rollout.case import Case, Cause, Evidence, Phase, StepCounts, Verdict
from control.rollout.judge import judge
from control.rollout.policy import Metric, Policy
from gateway.contract.alone import bad_event_evidence, slot_alpha
from gateway.contract.evidence import Arms, counted, reached

Array = npt.NDArray[Any]
SECOND_NS: Final = 1_000_000_000
GATEWAYS: Final = 2


class World(NamedTuple):
    """Requests in order, one element each, but for `bucket`."""

    second: Array
    entity: Array
    champion_bad: Array
    challenger_bad: Array
    gateway: Array
    bucket: Array
    """Per entity: the place that decides its arm, in [0, 10,000)."""


class Traffic(NamedTuple):
    """What a world is drawn from."""

    requests_per_s: float
    seconds: int
    entities: int
    bad_rate: float
    by_time: Callable[[Array, np.random.Generator], Array] = lambda share, _: np.ones_like(share)
    """What the rate is multiplied by at each share of the whole time; it may draw."""
    always_bad: float = 0.0
    """Share of entities whose every row is bad, in either arm."""


class Outcome(NamedTuple):
    """How a rollout ended."""

    rolled_back: bool
    """By its evidence."""
    promoted: bool
    timed_out: bool
    second: float
    requests: int
    """In both arms, until then."""


def draw(traffic: Traffic, ratio: float, rng: np.random.Generator) -> World:
    """A world in which bad rows are `ratio` times as likely in the challenger."""
    n = rng.poisson(traffic.requests_per_s * traffic.seconds)
    second = np.sort(rng.random(n)) * traffic.seconds
    entity = rng.integers(0, traffic.entities, n)
    rate = traffic.bad_rate * traffic.by_time(second / traffic.seconds, rng)
    luck, broken = rng.random(n), (rng.random(traffic.entities) < traffic.always_bad)[entity]
    return World(
        second=second,
        entity=entity,
        champion_bad=broken | (luck < rate),
        challenger_bad=broken | (luck < rate * ratio),
        gateway=rng.integers(0, GATEWAYS, n),
        bucket=rng.integers(0, 10_000, traffic.entities),
    )


def ours(policy: Policy, world: World, tick_s: float) -> Outcome:
    """The judge of the control plane every `tick_s`, and gateways that judge alone, along the policy's steps."""
    run = _Run(policy, world)
    for start, end, second in ticks(world, tick_s):
        run.see(slice(start, end))
        if (ended := run.judge(second, end)) is not None:
            return ended
    return Outcome(False, False, False, float(world.second[-1]), len(world.second))


def ticks(world: World, tick_s: float) -> Iterator[tuple[int, int, float]]:
    """The rows of each tick, and when it ends."""
    ends = np.arange(tick_s, world.second[-1] + tick_s, tick_s)
    rows = np.searchsorted(world.second, ends)
    start = 0
    for end, second in zip(rows, ends, strict=True):
        yield start, int(end), float(second)
        start = int(end)


class _Run:
    """One rollout of ours: what was counted, and where it stands."""

    def __init__(self, policy: Policy, world: World) -> None:
        self.policy, self.world = policy, world
        entities = len(world.bucket)
        self.had_bad = np.zeros((GATEWAYS + 1, entities), bool)
        self.first_bad: list[dict[int, Arms]] = [{} for _ in range(GATEWAYS + 1)]  # the last is the control plane's
        self.enter(0, 0.0)

    def enter(self, step: int, second: float) -> None:
        self.step, self.began = step, second
        self.scored_units = np.zeros(len(self.world.bucket), bool)
        self.scored = self.bad_scored = Arms()

    def see(self, rows: slice) -> None:
        world, weight = self.world, self.policy.steps[self.step].weight_bps
        entity = world.entity[rows]
        challenger = world.bucket[entity] < weight
        bad = np.where(challenger, world.challenger_bad[rows], world.champion_bad[rows])
        for place in range(GATEWAYS + 1):
            mine = bad if place == GATEWAYS else bad & (world.gateway[rows] == place)
            new = _first(entity, mine & ~self.had_bad[place, entity])
            self.had_bad[place, entity[new]] = True
            self.first_bad[place] = counted(self.first_bad[place], weight, _arms(challenger[new]))
        new = _first(entity, ~self.scored_units[entity])
        self.scored_units[entity[new]] = True
        self.scored = _sum(self.scored, _arms(challenger[new]))
        self.bad_scored = _sum(self.bad_scored, _arms(challenger[new][bad[new]]))

    def judge(self, second: float, requests: int) -> Outcome | None:
        if self._alone():
            return Outcome(True, False, False, second, requests)
        answer = judge(self.policy, self._case(second))
        match answer.verdict:
            case Verdict.ROLL_BACK:
                harm = answer.cause is Cause.HARM
                return Outcome(harm, False, not harm, second, requests)
            case Verdict.ADVANCE if self.step + 1 == len(self.policy.steps):
                return Outcome(False, True, False, second, requests)
            case Verdict.ADVANCE:
                self.enter(self.step + 1, second)
        return None

    def _alone(self) -> bool:
        errors = self.policy.metrics.errors
        assert errors is not None
        alpha = slot_alpha(self.policy.alpha_of(errors.alpha_share_pct), self.policy.gateway_slots)
        return any(
            reached(bad_event_evidence(bad, errors.rho, two_sided=False), alpha) for bad in self.first_bad[:GATEWAYS]
        )

    def _case(self, second: float) -> Case:
        weight = self.policy.steps[self.step].weight_bps
        scored = {weight: self.scored}
        return Case.model_construct(
            phase=Phase.CANARY,
            step=self.step,
            elapsed_ns=int(second * SECOND_NS),
            step_elapsed_ns=int((second - self.began) * SECOND_NS),
            approved=True,
            evidence=Evidence.model_construct(
                first_bad={Metric.ERRORS: self.first_bad[GATEWAYS]},
                step={
                    Metric.ERRORS: StepCounts.model_construct(scored=scored, bad={weight: self.bad_scored}),
                    Metric.NON_FINITE: StepCounts.model_construct(scored=scored, bad={}),
                },
                assigned=scored,
            ),
        )


def _first(entity: Array, wanted: Array) -> Array:
    """The first row of each entity among those that are wanted."""
    at = np.flatnonzero(wanted)
    return at[np.unique(entity[at], return_index=True)[1]]


def _arms(challenger: Array) -> Arms:
    mine = int(challenger.sum())
    return Arms(mine, len(challenger) - mine)


def _sum(one: Arms, other: Arms) -> Arms:
    return Arms(one.challenger + other.challenger, one.champion + other.champion)
