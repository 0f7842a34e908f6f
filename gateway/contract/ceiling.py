"""Evidence that a rate lies under a ceiling: what lets two arms without a single error advance.

Evidence of the ratio alone stays at 1 when nothing goes wrong in either arm. Here each unit's first scored row in the
challenger counts, bad or not. Null: given the past, it is bad with probability at least `ceiling`. The likelihood ratio
of a supposed rate c·ceiling, c < 1, is c for a bad row and (1 - c·ceiling) / (1 - ceiling) for a good one; its mean
falls in the true rate and is 1 at the ceiling, so the product, averaged over a grid of c, is a test supermartingale
(Ville: P(ever >= 1/beta) <= beta). State: two integers.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.contract.evidence import log_mean_exp, threshold

SUPPOSED: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""Supposed rates over the ceiling."""
SHARES: Final = (0.46, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06)
"""Their shares of the bet: most on next to no bad rows, which is what a sound version shows."""


def below(rows: int, bad: int, ceiling: float) -> float:
    """Log e-value of `bad` among `rows` first scored rows against "the rate is at least `ceiling`", 0 < ceiling < 1."""
    good = rows - bad
    terms = [math.fsum((bad * math.log(c), good * (math.log1p(-c * ceiling) - math.log1p(-ceiling)))) for c in SUPPOSED]
    return log_mean_exp(terms, SHARES)


def upper_bound(rows: int, bad: int, beta: float) -> float:
    """The smallest ceiling that the evidence rejects: the rate is under it at all times with probability 1 - beta.

    It inverts `below`, which grows with the ceiling for each supposed multiple, so that it lies under a ceiling exactly
    when the gate passes. 1 when nothing is known.
    """
    low, high, needed = 0.0, 1.0, threshold(beta)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if below(rows, bad, middle) >= needed else (middle, high)
    return high


def clean_rows_needed(ceiling: float, beta: float) -> int:
    """How many rows without a bad one pass the gate, for forecasts."""
    low, high, needed = 0, 1, threshold(beta)
    while below(high, 0, ceiling) < needed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if below(middle, 0, ceiling) >= needed else (middle, high)
    return high
