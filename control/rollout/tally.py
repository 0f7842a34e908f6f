"""What has been counted of one rollout: from units, each told once, to the integers that the judge is given. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from control.rollout.case import ArmCounts, Evidence, ShadowReport, StepCounts
from control.rollout.policy import Metric, Policy
from control.rollout.rollout_records import EvidenceRow, Head
from gateway.contract.distribution import SCORE_BINS
from gateway.contract.evidence import Arms
from gateway.contract.routing import WHOLE_BPS

FIRST_BAD: Final = 1
FIRST_ROW: Final = 2
"""The kinds of a unit, by their numbers on the wire."""
BITS: Final[Mapping[Metric, int]] = MappingProxyType(
    {Metric.ERRORS: 1, Metric.NON_FINITE: 2, Metric.REJECTED: 4, Metric.DECISIONS: 8}
)
"""The metrics that gateways count, by their bit on the wire."""

Tallies = dict[int, list[int]]
"""By weight: how many in the challenger, how many in the control."""


class Tally:
    """The counts of one rollout over all gateways. Units come in any order, and each once."""

    def __init__(self, policy: Policy) -> None:
        self._samples = {metric: bad.sample_bps for metric, bad in policy.metrics.bad()}
        self._gates = [metric for metric, _ in policy.gates()]
        self._first_bad: dict[Metric, Tallies] = defaultdict(dict)
        self._assigned: dict[int, Tallies] = defaultdict(dict)
        self._bins: dict[tuple[int, int], Tallies] = defaultdict(dict)
        self._scored: dict[tuple[int, Metric], Tallies] = defaultdict(dict)
        self._bad: dict[tuple[int, Metric], Tallies] = defaultdict(dict)

    def add(self, rows: Iterable[EvidenceRow]) -> None:
        """Counts units that were not counted before."""
        for row in rows:
            if row.kind == FIRST_BAD:
                for metric, bit in BITS.items():
                    if row.metric == bit and self._counts(metric, row.unit):
                        _count(self._first_bad[metric], row)
            else:
                _count(self._assigned[row.step], row)
                _count(self._bins[row.step, row.score_bin], row)
                for metric in self._gates:
                    if metric in BITS and self._counts(metric, row.unit):
                        _count(self._scored[row.step, metric], row)
                        if row.bad & BITS[metric]:
                            _count(self._bad[row.step, metric], row)

    def evidence(self, step: int, bins: bool, shadow: Mapping[str, Any]) -> Evidence:
        """The integers as they are in a step (numbered from 1); `shadow` is what mirrors saw, summed."""
        return Evidence(
            first_bad={metric: _arms(counts) for metric, counts in sorted(self._first_bad.items())},
            step={
                metric: StepCounts(
                    scored=_arms(self._scored.get((step, metric), {})), bad=_arms(self._bad.get((step, metric), {}))
                )
                for metric in self._gates
            },
            assigned=_arms(self._assigned.get(step, {})),
            score_bins=tuple(_arms(self._bins.get((step, index), {})) for index in range(SCORE_BINS)) if bins else (),
            slow_runs=tuple(Arms(*pair) for pair in shadow["slow_runs"]),
        )

    def _counts(self, metric: Metric, unit: str) -> bool:
        """Whether the unit is in the metric's sample: by its own hash, so that nothing else can choose it."""
        sample_bps = self._samples.get(metric)
        if sample_bps is None:
            return False
        return sample_bps == WHOLE_BPS or int(unit[:16], 16) % WHOLE_BPS < sample_bps


def mirrored(heads: Iterable[Head]) -> dict[str, Any]:
    """What the mirrors of all gateways saw, as one: sums, and the latencies of the gateway where they differ most."""
    reports = [found for head in heads if (found := json.loads(head.shadow_json))]
    width = max((len(report["slow_shadow"]) for report in reports), default=0)
    slow = [
        [sum(report[side][index] for report in reports if len(report[side]) > index) for side in SLOW]
        for index in range(width)
    ]
    timed = [report for report in reports if report["other_p99_ns"]]
    worst: dict[str, Any] = max(timed, key=lambda report: report["shadow_p99_ns"] / report["other_p99_ns"], default={})
    return {
        "pairs": sum(report["pairs"] for report in reports),
        "exceptions": sum(report["exceptions"] + report["non_finite"] for report in reports),
        "flips": sum(report["flips_up"] + report["flips_down"] for report in reports),
        "champion_p99_ns": worst.get("other_p99_ns", 0),
        "challenger_p99_ns": worst.get("shadow_p99_ns", 0),
        "slow_runs": slow,
    }


SLOW: Final = ("slow_shadow", "slow_other")


def shadow_report(summed: Mapping[str, Any]) -> ShadowReport:
    """The same, for the judge."""
    return ShadowReport(**{name: value for name, value in summed.items() if name != "slow_runs"})


def _count(tallies: Tallies, row: EvidenceRow) -> None:
    tallies.setdefault(row.weight_bps, [0, 0])[0 if row.challenger else 1] += 1


def _arms(tallies: Mapping[int, list[int]]) -> ArmCounts:
    return {weight_bps: Arms(*counts) for weight_bps, counts in sorted(tallies.items())}
