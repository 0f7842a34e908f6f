"""The rules of Flagger, Argo Rollouts and Kayenta as published, with the settings that their own pages begin with.

Each sees a world's requests by its own ramp, and only as rates: none knows entities.
- Flagger: fluxcd/flagger, pkg/controller/scheduler.go (advanceCanary, runCanary) and scheduler_metrics.go; the canary
  of docs/gitbook/usage/how-it-works.md: every minute, success rate over that minute at least 99 %, weight up by 5 to
  50, back at 10 failed checks; a minute without requests is a failed check.
- Argo Rollouts: analysis/analysis.go (assessMetricStatus); the background analysis of docs/features/analysis.md:
  weights of 20, 40, 60 and 80 % for ten minutes each, from the second on every 5 minutes a success rate of at least
  95 %, failed at more than 3 failures.
- Kayenta: NetflixACAJudge.scala and MannWhitneyClassifier.scala (98 % interval of the Hodges-Lehmann estimate,
  tolerance 0.25, no outlier removed), and Spinnaker's best practices: canary and an equal baseline for 3 hours, judged
  each hour on all minutes so far, direction `increase`, failed under 75 and passed at 95 of 100 points.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from benchmarks.rollouts import Array, Outcome, World, ticks

NORMAL_99: Final = 2.3263
"""The normal quantile of a two-sided interval of 98 %."""
KAYENTA_SHARE_BPS: Final = 500


def flagger(world: World) -> Outcome:
    """Absolute threshold per minute, a count of failed checks."""
    weight, failed = 500, 0
    for start, end, second in ticks(world, 60):
        if failed >= 10:
            return Outcome(True, False, False, second, end)
        rate = _success(world, slice(start, end), weight)
        if rate is None or rate < 0.99:
            failed += 1
        elif weight >= 5_000:
            return Outcome(False, True, False, second, end)
        else:
            weight += 500
    return Outcome(False, False, False, float(world.second[-1]), len(world.second))


def argo(world: World) -> Outcome:
    """Absolute threshold per five minutes, a count of failures; done when the steps are."""
    failed = 0
    for start, end, second in ticks(world, 300):
        step = int(second - 1) // 600
        if step >= 4:
            return Outcome(False, True, False, second, end)
        rate = _success(world, slice(start, end), 2_000 * (step + 1))
        failed += step >= 1 and rate is not None and rate < 0.95
        if failed > 3:
            return Outcome(True, False, False, second, end)
    return Outcome(False, False, False, float(world.second[-1]), len(world.second))


def kayenta(world: World) -> Outcome:
    """Mann-Whitney on error rates per minute, three times."""
    canary, baseline = [], []
    bucket = world.bucket[world.entity]
    mine, theirs = bucket < KAYENTA_SHARE_BPS, (bucket >= KAYENTA_SHARE_BPS) & (bucket < 2 * KAYENTA_SHARE_BPS)
    for minute, (start, end, second) in enumerate(ticks(world, 60), start=1):
        rows = slice(start, end)
        canary.append(_mean(world.challenger_bad[rows][mine[rows]]))
        baseline.append(_mean(world.champion_bad[rows][theirs[rows]]))
        if minute % 60 == 0:
            if _high(_finite(canary), _finite(baseline)):
                return Outcome(True, False, False, second, end)
            if minute == 180:
                return Outcome(False, True, False, second, end)
    return Outcome(False, False, False, float(world.second[-1]), len(world.second))


def _success(world: World, rows: slice, weight_bps: int) -> float | None:
    mine = world.bucket[world.entity[rows]] < weight_bps
    return 1 - _mean(world.challenger_bad[rows][mine]) if mine.any() else None


def _mean(bad: Array) -> float:
    return float(bad.mean()) if len(bad) else math.nan


def _finite(values: list[float]) -> Array:
    found = np.array(values)
    return found[np.isfinite(found)]


def _high(canary: Array, baseline: Array) -> bool:
    """Whether the interval of the shift lies over a quarter of its estimate."""
    if not len(canary) or not len(baseline) or np.array_equal(canary, baseline):
        return False
    shifts = np.sort((canary[:, None] - baseline[None, :]).ravel())
    n, m = len(canary), len(baseline)
    rank = int(n * m / 2 - NORMAL_99 * math.sqrt(n * m * (n + m + 1) / 12))
    return bool(shifts[max(rank, 0)] > 0.25 * abs(np.median(shifts)))
