"""How far two versions' answers to the same rows lie apart, as running totals. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from gateway.contract.document import ModelDocument, Threshold
from gateway.contract.errors import Reason
from gateway.mirror.quantiles import Quantiles


class Scored(NamedTuple):
    """What a version said of one row."""

    score: float
    """NaN where it has none."""
    decision: str
    """Empty for none."""
    reason: Reason | None
    """Why it has no score."""
    run_ns: int
    """The processor's time that its run took; 0 where it did not run to its end."""


class Flip(NamedTuple):
    """Which way a row's decision differs."""

    up: bool = False
    """Only the shadow decides for what the model looks for."""
    down: bool = False
    """Only the other does; or, where there is no such decision, the decisions differ."""


COUNTS: Final = ("pairs", "exceptions", "non_finite", "other_failed", "flips_up", "flips_down")
MOMENTS: Final = ("mean_shadow", "mean_other", "square_shadow", "square_other", "product", "absolute")


def flip(shadow: tuple[ModelDocument, str], other: tuple[ModelDocument, str]) -> Flip:
    """How two decisions, each by its version's document, differ."""
    (mine, decided), (theirs, decided_otherwise) = shadow, other
    if isinstance(mine.decision, Threshold) and isinstance(theirs.decision, Threshold):
        hit, other_hit = decided == mine.decision.hit, decided_otherwise == theirs.decision.hit
        return Flip(hit and not other_hit, other_hit and not hit)
    return Flip(down=decided != decided_otherwise)


class Divergence:
    """The totals of a model, or of one of its segments."""

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        saved = saved or {}
        self.counts: dict[str, int] = {name: int(saved.get(name, 0)) for name in COUNTS}
        self._moments: dict[str, float] = {name: float(saved.get(name, 0.0)) for name in MOMENTS}
        self._differences = Quantiles(saved.get("differences", ()), saved.get("equal", 0))

    def add(self, shadow: Scored, other: Scored, flipped: Flip) -> None:
        """Counts a row. Where the other failed, nothing is held against the shadow."""
        counts = self.counts
        if other.reason is not None:
            counts["other_failed"] += 1
        elif shadow.reason is Reason.SCORE_NOT_FINITE:
            counts["non_finite"] += 1
        elif shadow.reason is not None:
            counts["exceptions"] += 1
        else:
            counts["pairs"] += 1
            counts["flips_up"] += flipped.up
            counts["flips_down"] += flipped.down
            self._compare(shadow.score, other.score)

    def figures(self) -> dict[str, Any]:
        """What people are told."""
        pairs, moments = self.counts["pairs"], self._moments
        return {
            **self.counts,
            "correlation": self._correlation(),
            "mean_difference": moments["mean_shadow"] - moments["mean_other"],
            "mean_absolute_difference": moments["absolute"] / pairs if pairs else 0.0,
            "p99_absolute_difference": self._differences.at(99),
        }

    def saved(self) -> dict[str, Any]:
        """What the constructor takes."""
        differences = {"differences": self._differences.saved(), "equal": self._differences.zeros}
        return {**self.counts, **self._moments, **differences}

    def _compare(self, shadow: float, other: float) -> None:
        """Welford's way: sums of squares of large numbers would leave nothing of their differences."""
        moments, n = self._moments, self.counts["pairs"]
        from_shadow, from_other = shadow - moments["mean_shadow"], other - moments["mean_other"]
        moments["mean_shadow"] += from_shadow / n
        moments["mean_other"] += from_other / n
        moments["square_shadow"] += from_shadow * (shadow - moments["mean_shadow"])
        moments["square_other"] += from_other * (other - moments["mean_other"])
        moments["product"] += from_shadow * (other - moments["mean_other"])
        moments["absolute"] += abs(shadow - other)
        self._differences.add(abs(shadow - other))

    def _correlation(self) -> float | None:
        """Pearson's; None where one side does not vary."""
        size = math.sqrt(self._moments["square_shadow"]) * math.sqrt(self._moments["square_other"])
        return min(1.0, max(-1.0, self._moments["product"] / size)) if size > 0 else None
