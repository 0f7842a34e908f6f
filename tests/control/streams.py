"""Simulated traffic, the rules by which its events are counted, and the evidence along them: vectorised for speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.evidence import HARMFUL, Arms, Counts, counted
from tests.support import STRESS

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RUNS: Final = 1_000 if STRESS else 100
"""Runs of a simulation of an error rate."""


class Stream(NamedTuple):
    """Requests in order."""

    entity: Ints
    challenger: Bools
    weight_bps: Ints
    bad: Bools


def ramp(n: int, *weights_bps: int) -> Ints:
    """Weights in force over n requests, each for an equal part of them."""
    return np.repeat(np.array(weights_bps, np.int64), -(-n // len(weights_bps)))[:n]


def sticky(
    rng: np.random.Generator, entities: int, weight_bps: Ints, base: Floats | float, ratio: float = 1.0
) -> Stream:
    """Requests of random entities, assigned by the entity's bucket.

    `base` is the champion's rate of bad rows: one number, one per request (an hour, an incident), or one per entity
    (an entity whose rows are all bad), told apart by its length.
    """
    n = len(weight_bps)
    entity = rng.integers(0, entities, n)
    challenger = rng.integers(0, 10_000, entities)[entity] < weight_bps
    rate = np.broadcast_to(base, n) if np.ndim(base) == 0 or len(np.atleast_1d(base)) == n else np.asarray(base)[entity]
    bad = rng.random(n) < rate * np.where(challenger, ratio, 1.0)
    return Stream(entity, challenger, weight_bps, bad)


def per_request(rng: np.random.Generator, weight_bps: Ints, base: Floats | float, ratio: float = 1.0) -> Stream:
    """Requests that are assigned anew each time: every one its own unit."""
    n = len(weight_bps)
    challenger = rng.integers(0, 10_000, n) < weight_bps
    bad = rng.random(n) < np.broadcast_to(base, n) * np.where(challenger, ratio, 1.0)
    return Stream(np.arange(n), challenger, weight_bps, bad)


def every_bad(stream: Stream) -> Ints:
    """A wrong rule: all bad events of an entity count."""
    return np.flatnonzero(stream.bad)


def first_bad(stream: Stream) -> Ints:
    """The rule to roll back by: an entity's first bad event."""
    at = np.flatnonzero(stream.bad)
    return at[np.sort(np.unique(stream.entity[at], return_index=True)[1])]


def first_scored(stream: Stream) -> Ints:
    """The rule to advance by: an entity's first row, bad or not."""
    return np.sort(np.unique(stream.entity, return_index=True)[1])


def log_e_path(challenger: Bools, weight_bps: Ints, rho: float, multiples: Sequence[float] = HARMFUL) -> Floats:
    """The log e-value after each bad event: what `evidence.log_e` says of the counts so far."""
    if not len(challenger):
        return np.zeros(1)
    c, w = np.array(multiples)[:, None], weight_bps / 10_000
    factors = challenger * np.log(c) + np.log((w * rho + 1 - w) / (w * c * rho + 1 - w))
    sums = np.cumsum(factors, axis=1)
    top = sums.max(axis=0)
    return np.asarray(top + np.log(np.exp(sums - top).mean(axis=0)))


def path(stream: Stream, at: Ints, rho: float = 1.0, multiples: Sequence[float] = HARMFUL) -> Floats:
    """The log e-value after each of the rows `at`, all of them bad."""
    return log_e_path(stream.challenger[at], stream.weight_bps[at], rho, multiples)


def counts_at(stream: Stream, at: Ints) -> Counts:
    """The rows `at` as integers."""
    found: Counts = {}
    for weight in np.unique(stream.weight_bps[at]):
        mine = stream.challenger[at][stream.weight_bps[at] == weight]
        found = counted(found, int(weight), Arms(int(mine.sum()), int((~mine).sum())))
    return found


class Rate(NamedTuple):
    """How often something happened, with the interval that holds the true rate with 99.8 %."""

    hits: int
    runs: int

    @property
    def low(self) -> float:
        """The smallest rate under which so many hits are not a surprise."""
        return _solve(lambda p: _tail(self.hits, self.runs, p) < 0.001) if self.hits else 0.0

    @property
    def high(self) -> float:
        """The largest."""
        return (
            1 - _solve(lambda p: _tail(self.runs - self.hits, self.runs, p) < 0.001) if self.hits < self.runs else 1.0
        )

    def __str__(self) -> str:
        return f"{self.hits}/{self.runs} = {self.hits / self.runs:.2%} [{self.low:.2%}, {self.high:.2%}]"


def _tail(hits: int, runs: int, p: float) -> float:
    """P(at least so many hits)."""
    return math.fsum(
        math.exp(
            math.lgamma(runs + 1)
            - math.lgamma(k + 1)
            - math.lgamma(runs - k + 1)
            + k * math.log(p)
            + (runs - k) * math.log1p(-p)
        )
        for k in range(hits, runs + 1)
    )


def _solve(below: object) -> float:
    assert callable(below)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def consistent(rate: Rate, bound: float) -> bool:
    """Whether so many hits do not contradict "the rate is at most this", and prints them with their interval."""
    print(f"{rate} against {bound:.2%}")
    return rate.low <= bound
