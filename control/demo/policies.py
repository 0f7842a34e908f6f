"""The rollout policies of the story. What they leave out is as the model's tier has it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

GOOD: Final = """\
# A demo has seconds and a thousand customers. Short by policy, and nothing is skipped: each step waits for its proof.
# The mirror compares the versions on real calls before the new one answers any. It sees who complained, so it is meant
# to decide otherwise for some; and a p99 of seconds is rough.
shadow: {pairs: 500, max_flip_rate: 0.2, max_latency_ratio: 5, maximum_s: 120}
steps:
  - {weight_bps: 2000, minimum_s: 3}
  - {weight_bps: 5000, minimum_s: 3}
metrics:
  # 200 customers without an error show that fewer than 5 % err; the tier's 0.5 % would take ten times as many.
  errors: {advance: {ceiling: {max_bad_rate: 0.05}}}
  non_finite: {advance: {ceiling: {max_bad_rate: 0.05}}}
  # More people are called than before, which is meant.
  decisions: {rho: 2.0}
  # A guard: a thousand customers are too few to advance on what became of them.
  labels: {role: guard}
maximum_s: 240
holdback: {share_bps: 500, maximum_s: 5}
"""

BAD: Final = """\
# Straight to customers, so that there is something to roll back: in the shadow they would have met none.
shadow: null
gateway_slots: 1
steps:
  - {{weight_bps: {weight_bps}, minimum_s: 240}}
maximum_s: 300
"""

WEIGHTS_BPS: Final[Mapping[str, int]] = MappingProxyType(
    {"failing_calls": 1_000, "wrong_scores": 2_000, "quality": 5_000}
)
"""What a planted version gets. Mistakes that only labels show are told apart soonest by halves."""


def bad(kind: str) -> str:
    """The policy by which a planted version is tried."""
    return BAD.format(weight_bps=WEIGHTS_BPS[kind])
