"""Evidence that stays valid however often one looks at it: integers, and e-values that are pure functions of them.

The arm of a row is drawn by us with a known probability w, so that under "a bad event is as likely in either arm" the
arm of a bad event is a fair bet. With r = P(bad | challenger) / P(bad | champion), a bad event lies in the challenger
with probability w·r / (w·r + 1 - w), whatever the traffic, the hour or an incident that strikes both arms. The
likelihood ratio of a supposed r = c·rho to the boundary rho is, for one bad event with x = 1 in the challenger,

    e(c) = c^x · (w·rho + 1 - w) / (w·c·rho + 1 - w)

Given the past its mean is q·e(x=1) + (1-q)·e(x=0) with q = w·r / (w·r + 1 - w): 1 at r = rho, and less on the side of
rho that c points away from. So the product over bad events, averaged over a fixed grid of c, is a test supermartingale
under the null, and by Ville's inequality P(it ever reaches 1/alpha) <= alpha (Ramdas et al., arXiv 2210.01948; the
bet on the arm given the event: Zampieri, arXiv 2512.04366). No factor depends on anything but the arm and the weight in
force, so the product is a function of counts per weight: exact, mergeable in any order, replayable.

What must hold: one event per unit of randomisation, which is the entity where the assignment is sticky (its first bad
event in the rollout to roll back; its first scored row in the step, bad or not, to advance); and the weight may depend
on the past events' arms but not on the assignment of units whose event is still to come.

Two planes must agree to the bit, and libraries differ in a logarithm's last place: results are rounded to 9 decimals
before anything is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.contract.routing import WHOLE_BPS

DECIMALS: Final = 9
"""To how many decimals a logarithm of an e-value is kept."""

HARMFUL: Final = tuple(50.0 ** (j / 16) for j in range(1, 17))
"""Supposed ratios over rho, when looking for harm: 16 from 1.28 to 50."""
SAFE: Final = tuple(0.24 * (0.96 / 0.24) ** (j / 15) for j in range(16))
"""Supposed ratios over the margin, when looking for safety: 16 from 0.24 to 0.96."""


class Arms(NamedTuple):
    """Counts of one thing in both arms."""

    challenger: int = 0
    champion: int = 0


Counts = Mapping[int, Arms]
"""Counts by the weight in force, in basis points."""


def counted(counts: Counts, weight_bps: int, arms: Arms) -> dict[int, Arms]:
    """The counts with these added at that weight."""
    return merged((counts, {weight_bps: arms}))


def merged(parts: Iterable[Counts]) -> dict[int, Arms]:
    """The sum of counts that share no unit: those of one gateway over time, or those kept once over all gateways.

    E-values of gateways must never be multiplied instead: an entity that reaches two of them would count twice.
    """
    found: dict[int, Arms] = {}
    for part in parts:
        for weight_bps, arms in part.items():
            old = found.get(weight_bps, Arms())
            found[weight_bps] = Arms(old.challenger + arms[0], old.champion + arms[1])
    return dict(sorted(found.items()))


def total(counts: Counts) -> Arms:
    """The counts over all weights."""
    return Arms(sum(arms[0] for arms in counts.values()), sum(arms[1] for arms in counts.values()))


def log_e(counts: Counts, rho: float, multiples: Sequence[float]) -> float:
    """The natural logarithm of the e-value of these bad events against the boundary `rho`, equally averaged over the
    supposed ratios `rho` times each of `multiples`.

    Valid against r <= rho when all multiples are above 1, against r >= rho when all are below, and against r = rho
    otherwise. 0 without any event.
    """
    held = [(weight_bps, arms) for weight_bps, arms in sorted(counts.items()) if any(arms)]
    terms = [
        math.fsum(_log_factor(w, rho, c, 1) * arms[0] + _log_factor(w, rho, c, 0) * arms[1] for w, arms in held)
        for c in multiples
    ]
    return log_mean_exp(terms)


@lru_cache(maxsize=16_384)
def _log_factor(weight_bps: int, rho: float, multiple: float, arm: int) -> float:
    """What one bad event adds to the logarithm; `arm` is 1 for the challenger."""
    w = weight_bps / WHOLE_BPS
    return arm * math.log(multiple) + math.log((w * rho + 1 - w) / (w * multiple * rho + 1 - w))


def log_mean_exp(terms: Sequence[float], shares: Sequence[float] | None = None) -> float:
    """The logarithm of the mean of e-values, given their logarithms (and the shares, summing to 1, that they have)."""
    top = max(terms)
    parts = [math.exp(term - top) for term in terms]
    mean = (
        math.fsum(parts) / len(parts)
        if shares is None
        else math.fsum(s * p for s, p in zip(shares, parts, strict=True))
    )
    return round(top + math.log(mean), DECIMALS) + 0.0  # never -0.0: one value has one text


def harm(bad: Counts, rho: float = 1.0) -> float:
    """Evidence that the challenger is worse: log e-value against "bad events are at most `rho` times as likely in it".

    `bad` counts each entity's first bad event in the rollout. Entities that had theirs are out, so where entities call
    often the harmed arm runs dry: that weakens this evidence and never feigns it.
    """
    return log_e(bad, rho, HARMFUL)


def safety(bad: Counts, margin: float) -> float:
    """Evidence that the challenger is not much worse: log e-value against "bad events are at least `margin` times as
    likely in it".

    `bad` counts bad rows among each entity's first scored row in the step, and nothing else: first bad events would
    make the harmed arm run dry, and harm look like safety.
    """
    return log_e(bad, margin, SAFE)


def change(events: Counts, rho: float) -> float:
    """Evidence that events became more than `rho` times as frequent, or less than 1/rho times: the mean of both
    one-sided e-values, which share a clock, so that it is one itself. For a rate that may err either way."""
    return log_mean_exp([log_e(events, rho, HARMFUL), log_e(events, 1 / rho, [1 / c for c in HARMFUL])])


def threshold(alpha: float) -> float:
    """What a log e-value must reach for an error of at most `alpha`."""
    return round(-math.log(alpha), DECIMALS)


def reached(value: float, alpha: float) -> bool:
    """Whether a log e-value is at least ln(1/alpha): false at most with probability `alpha`, looking at all times."""
    return value >= threshold(alpha)


def ratio_bounds(bad: Counts, alpha: float) -> tuple[float, float]:
    """Between which ratios r lies, for display: each bound is wrong, ever, with probability at most `alpha`.

    They invert the tests above: the largest rho that harm rejects and the smallest margin that safety shows. Both are
    monotone in rho, since the factors of the grid's multiples are. (0, inf) without events.
    """
    low, high = 1e-4, 1e4
    lower = _boundary(lambda rho: reached(harm(bad, rho), alpha), low, high)
    upper = _boundary(lambda rho: not reached(safety(bad, rho), alpha), low, high)
    return (0.0 if lower <= low else lower), (math.inf if upper >= high else upper)


def _boundary(holds_below: Callable[[float], bool], low: float, high: float) -> float:
    """Where a statement that holds for small rho stops holding, to three digits or so."""
    if not holds_below(low):
        return low
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds_below(middle) else (low, middle)
    return high
