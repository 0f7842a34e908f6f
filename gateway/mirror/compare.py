"""The comparison of one shadow with the version that answers, as running totals that no restart forgets. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from gateway.contract.distribution import SCORE_BINS, latency_thresholds_ns, score_bin, score_edges, slow_at
from gateway.mirror.divergence import Divergence, Flip, Scored
from gateway.mirror.quantiles import Quantiles

FROZEN_RUNS: Final = 200
"""Runs of the other version after which the latency thresholds are frozen; what they are made of is not counted."""
FROZEN_PAIRS: Final = 1_000
"""Pairs after which the bins of the scores are."""
THRESHOLDS: Final = 4
MOST_CRASHES: Final = 3
"""Times that a shadow may end the mirror before it is left alone."""
MOST_VALUES: Final = 32
"""Values of a segment that have figures of their own."""
REST: Final = "OTHER"
"""All further values of a segment."""
SIDES: Final = ("shadow", "other")


class Drop(StrEnum):
    """Why a row that was to be mirrored was not. None of it looks at what the row says."""

    BEHIND = "behind"
    """More came than could be scored."""
    OVERWRITTEN = "overwritten"
    """The journal came round before the row was read; how many of those rows were to be mirrored is not known."""
    NOT_LOADED = "not_loaded"
    """A version is not loaded, or the shadow is left alone."""
    NOT_JOURNALLED = "not_journalled"
    """Something that one of the versions takes is not in the journal."""
    FEATURES_AWAITED = "features_awaited"
    """The features of the shadow were not materialized yet."""
    STARVED = "starved"
    """The machine left the mirror too little time."""
    RESTARTED = "restarted"
    """It waited when the mirror ended."""


class Comparison:
    """Everything that is known of one rollout's shadow."""

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        saved = saved or {}
        self.whole = Divergence(saved.get("whole"))
        self.segments: dict[str, dict[str, Divergence]] = {
            column: {value: Divergence(one) for value, one in found.items()}
            for column, found in saved.get("segments", {}).items()
        }
        self.dropped: Counter[str] = Counter(saved.get("dropped", {}))
        if saved.get("waiting"):
            self.dropped[Drop.RESTARTED] += saved["waiting"]
        self.crashes = int(saved.get("crashes", 0))
        """Times that the shadow ended the mirror, by a crash or by the memory that it took."""
        self.poison: list[str] = list(saved.get("poison", ()))
        """The predictions that did, newest last: they are not tried again."""
        self._thresholds_ns: list[int] = list(saved.get("thresholds_ns", ()))
        self._early_ns: list[int] = list(saved.get("early_ns", ()))
        self._slow: dict[str, list[int]] = {side: list(saved.get("slow", {}).get(side, ())) for side in SIDES}
        self._run_ns = {side: Quantiles(saved.get("run_ns", {}).get(side, ())) for side in SIDES}
        self._edges: list[float] = list(saved.get("edges", ()))
        self._early: list[list[float]] = list(saved.get("early", ()))
        self._bins: dict[str, list[int]] = {side: list(saved.get("bins", {}).get(side, ())) for side in SIDES}

    @property
    def left_alone(self) -> bool:
        """Whether the shadow has ended the mirror too often."""
        return self.crashes >= MOST_CRASHES

    def add(
        self,
        scored: tuple[Scored, Scored],
        flipped: Flip,
        segments: Mapping[str, str],
        limits: tuple[float, int],
    ) -> None:
        """Counts a row that both have scored, the shadow first; `limits` are the slack and the objective."""
        shadow, other = scored
        for one in (self.whole, *(self._segment(column, value) for column, value in segments.items())):
            one.add(shadow, other, flipped)
        if shadow.reason is None and other.reason is None:
            self._time(shadow.run_ns, other.run_ns, limits)
            self._place(shadow.score, other.score)

    def count_crash(self, prediction_id: str) -> None:
        """Counts a run of the shadow that ended the mirror; without an id it was the loading."""
        self.crashes += 1
        self.whole.counts["exceptions"] += 1
        self.skip(prediction_id)

    def skip(self, prediction_id: str) -> None:
        """Has a prediction left out from now on."""
        if prediction_id:
            self.poison = [*self.poison[-7:], prediction_id]

    def report(self) -> dict[str, Any]:
        """What goes to the control plane: the fields of its ShadowReport."""
        counts = self.whole.counts
        return {
            "pairs": counts["pairs"],
            "exceptions": counts["exceptions"],
            "non_finite": counts["non_finite"],
            "flips_up": counts["flips_up"],
            "flips_down": counts["flips_down"],
            "dropped": sum(self.dropped.values()),
            "slow_shadow": self._slow["shadow"],
            "slow_other": self._slow["other"],
            "shadow_p99_ns": round(self._run_ns["shadow"].at(99)),
            "other_p99_ns": round(self._run_ns["other"].at(99)),
            "score_edges": self._edges,
            "figures_json": json.dumps(self._figures()),
        }

    def saved(self, waiting: int) -> dict[str, Any]:
        """What the constructor takes; `waiting` are the rows that are lost with this process."""
        return {
            "waiting": waiting,
            "whole": self.whole.saved(),
            "segments": {
                column: {value: one.saved() for value, one in found.items()} for column, found in self.segments.items()
            },
            "dropped": dict(self.dropped),
            "crashes": self.crashes,
            "poison": self.poison,
            "thresholds_ns": self._thresholds_ns,
            "early_ns": self._early_ns,
            "slow": self._slow,
            "run_ns": {side: found.saved() for side, found in self._run_ns.items()},
            "edges": self._edges,
            "early": self._early,
            "bins": self._bins,
        }

    def _segment(self, column: str, value: str) -> Divergence:
        found = self.segments.setdefault(column, {})
        if value not in found and len(found) >= MOST_VALUES:
            value = REST
        return found.setdefault(value, Divergence())

    def _time(self, shadow_ns: int, other_ns: int, limits: tuple[float, int]) -> None:
        self._run_ns["shadow"].add(shadow_ns)
        self._run_ns["other"].add(other_ns)
        if self._thresholds_ns:
            for side, run_ns in zip(SIDES, (shadow_ns, other_ns), strict=True):
                for index, slow in enumerate(slow_at(self._thresholds_ns, run_ns)):
                    self._slow[side][index] += slow
            return
        self._early_ns.append(other_ns)
        if len(self._early_ns) >= FROZEN_RUNS:
            slack, slo_ns = limits
            self._thresholds_ns = list(latency_thresholds_ns(self._early_ns, slack, slo_ns or None))
            self._early_ns = []
            self._slow = {side: [0] * THRESHOLDS for side in SIDES}

    def _place(self, shadow: float, other: float) -> None:
        if self._edges:
            self._bins["shadow"][score_bin(self._edges, shadow)] += 1
            self._bins["other"][score_bin(self._edges, other)] += 1
            return
        self._early.append([shadow, other])
        if len(self._early) >= FROZEN_PAIRS:
            self._edges = list(score_edges([found for _, found in self._early]))
            self._bins = {side: [0] * SCORE_BINS for side in SIDES}
            early, self._early = self._early, []
            for pair in early:
                self._place(*pair)

    def _figures(self) -> dict[str, Any]:
        return {
            **self.whole.figures(),
            "run_ns": {
                side: {f"p{percent}": round(found.at(percent)) for percent in (50, 90, 99)}
                for side, found in self._run_ns.items()
            },
            "thresholds_ns": self._thresholds_ns,
            "score_bins": self._bins if self._edges else {},
            "score_psi": stability(self._bins["shadow"], self._bins["other"]),
            "dropped": dict(self.dropped),
            "crashes": self.crashes,
            "segments": {
                column: {value: one.figures() for value, one in sorted(found.items())}
                for column, found in self.segments.items()
            },
        }


def stability(shadow: Sequence[int], other: Sequence[int]) -> float:
    """The population stability index between two histograms, each bin with half a count more than it has."""
    if not other:
        return 0.0
    totals = sum(shadow) + len(shadow) / 2, sum(other) + len(other) / 2
    shares = [((a + 0.5) / totals[0], (b + 0.5) / totals[1]) for a, b in zip(shadow, other, strict=True)]
    return math.fsum((a - b) * math.log(a / b) for a, b in shares)
