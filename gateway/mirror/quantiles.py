"""Quantiles of a stream in few numbers: counts in buckets whose width is a fixed part of their place. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

FINENESS: Final = 32
"""Buckets in each doubling: neighbours differ by 2.2 %."""


class Quantiles:
    """Counts of numbers that are not negative."""

    def __init__(self, saved: Iterable[tuple[int, int]] = (), zeros: int = 0) -> None:
        self.counts = dict(saved)
        self.zeros = zeros

    def add(self, value: float) -> None:
        """Counts one."""
        if value <= 0:
            self.zeros += 1
            return
        bucket = math.floor(math.log2(value) * FINENESS)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def at(self, percent: int) -> float:
        """The value that so many percent of them reach at most; the middle of its bucket. 0 without any."""
        left = -(-(self.zeros + sum(self.counts.values())) * percent // 100) - self.zeros
        found = 0.0
        for bucket in sorted(self.counts):
            if left <= 0:
                break
            left -= self.counts[bucket]
            found = 2.0 ** ((bucket + 0.5) / FINENESS)
        return found

    def saved(self) -> list[list[int]]:
        """What the constructor takes, but for the zeros."""
        return [list(pair) for pair in sorted(self.counts.items())]
