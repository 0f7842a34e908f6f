"""Evidence over more than one kind of event: scores by bins, latencies by thresholds, the arms' shares, labelled pairs.

All of it is the bet of `evidence` on the arm given what was seen, so that all of it is a function of integers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from gateway.contract.evidence import DECIMALS, HARMFUL, Arms, Counts, log_e, log_mean_exp

EVEN_BPS: Final = 5_000
"""The weight of what is seen of both versions for each row: either is as likely to be the one that we speak of."""

SCORE_BINS: Final = 11
"""Ten bins between deciles of the champion's scores, and the last for scores that are not finite."""

_MOVES: Final = tuple(math.exp(sign * size) for size in (0.25, 0.5, 1.0, 2.0, 3.5) for sign in (1, -1))
"""Supposed ratios of the arms' densities in one bin, where they differ."""
_STILL: Final = 0.3
"""The share of the bet on "this bin is as likely in either arm", so that bins that do not move cost little."""


def score_edges(champion_scores: Sequence[float]) -> tuple[float, ...]:
    """The nine inner deciles of the champion's finite scores, to be frozen before the first comparison."""
    found = sorted(score for score in champion_scores if math.isfinite(score))
    return tuple(found[len(found) * k // 10] for k in range(1, 10)) if found else ()


def score_bin(edges: Sequence[float], score: float) -> int:
    """The bin of a score: how many edges lie at or below it; the last bin for one that is not finite."""
    return bisect_right(edges, score) if math.isfinite(score) else SCORE_BINS - 1


def shift(bins: Sequence[Counts]) -> float:
    """Log e-value of counts per bin (of entities' first scored rows in the step) against "in every bin, the arms are
    as likely as the weight says", that is, against equal score distributions; two-sided.

    Each event belongs to one bin and is bet on by that bin's mixture over `_MOVES`, which depends on that bin's past
    alone; the product over bins is therefore a martingale under the null, and a function of the counts.
    """
    return round(math.fsum(_two_sided(counts) for counts in bins), DECIMALS)


def sample_ratio(scored: Counts) -> float:
    """Log e-value against "each entity was assigned with the probability that we say": the router's self-test.

    `scored` counts entities, by their first scored row in the step: rows of one entity share its draw. Start anew at
    each step, whose draws are the last one's continued. Above its threshold no other evidence means anything.
    """
    return _two_sided(scored)


def _two_sided(counts: Counts) -> float:
    terms = [0.0] + [log_e(counts, 1.0, (multiple,)) for multiple in _MOVES]
    return log_mean_exp(terms, [_STILL] + [(1 - _STILL) / len(_MOVES)] * len(_MOVES))


def paired(challenger_alone: int, champion_alone: int) -> float:
    """Log e-value of labelled pairs in which one version alone was wrong, against "the challenger is at most as often
    the one": McNemar's test, sequentially. Both scored the same row, so rows on which both were wrong say nothing."""
    return log_e({EVEN_BPS: Arms(challenger_alone, champion_alone)}, 1.0, HARMFUL)


def latency_thresholds_ns(champion_ns: Sequence[int], slack: float, slo_ns: int | None) -> tuple[int, int, int, int]:
    """The four durations beyond which a run counts as slow, frozen from the champion's mirrored runs: its p50, p90 and
    p99, each times `slack`, and the SLO (twice the third where there is none). Without slack, two versions that differ
    by a harmless 3 % would differ at the median nearly always. Needs at least one duration."""
    found = sorted(champion_ns)
    p50, p90, p99 = (math.ceil(found[(len(found) - 1) * k // 100] * slack) for k in (50, 90, 99))
    return p50, p90, p99, slo_ns if slo_ns is not None else 2 * p99


def slow_at(thresholds_ns: Sequence[int], duration_ns: int) -> list[bool]:
    """Per threshold, whether a run of this duration is beyond it."""
    return [duration_ns > limit_ns for limit_ns in thresholds_ns]


def latency(slow_runs: Sequence[Arms], rho: float) -> float:
    """Log e-value against "at each threshold the challenger is at most `rho` times as often beyond it": the mean of the
    thresholds' e-values, which share a clock.

    `slow_runs` counts, per threshold, runs of either version beyond it over mirrored rows that both versions scored. A
    row in which both are slow adds both factors, and their product is at most what separate rows would make of them
    (the correction is P(both)·(e1 - 1)(e0 - 1) < 0), so pairing costs no validity.
    """
    if not slow_runs:
        return 0.0
    return log_mean_exp([log_e({EVEN_BPS: arms}, rho, HARMFUL) for arms in slow_runs])
