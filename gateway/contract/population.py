"""How many callers there are, from how often they called and how many of them were seen. Pure.

Each of a population is supposed to call at random, as often as any other; then `calls` calls reach
population * (1 - exp(-calls / population)) of them.
"""

from __future__ import annotations

import math


def population(calls: float, seen: float) -> float:
    """The population of which so many calls reached so many; infinite where nearly every call came from another."""
    if seen >= 0.999 * calls:
        return math.inf
    low, high = max(seen, 1.0), 1e15
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if seen_of(middle, calls) < seen else (low, middle)
    return high


def seen_of(population: float, calls: float) -> float:
    """How many of a population so many calls are expected to reach."""
    return calls if math.isinf(population) else -population * math.expm1(-calls / population)
