"""What the route table says of rollouts: canaries that answer a share, and shadows that answer nobody. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from control.rollout.case import Phase
from control.rollout.policy import Metric, Policy, Unit
from control.rollout.rollouts import Kind, Rollout
from control.rollout.version import ServedVersion, VersionRecord, served
from gateway.contract.alone import slot_alpha

COUNTED: Final = (Metric.ERRORS, Metric.NON_FINITE, Metric.REJECTED, Metric.DECISIONS)
"""The metrics that a gateway sees by itself."""
NS_PER_MS: Final = 1_000_000
PLAIN_SLACK: Final = 1.2


class Guard(NamedTuple):
    """A test by which a gateway may withdraw the challenger."""

    metric: str
    alpha: float
    rho: float
    two_sided: bool
    sample_bps: int


class Canary(NamedTuple):
    """A challenger on a share of the traffic."""

    rollout_id: int
    challenger: ServedVersion
    control: ServedVersion
    weight_bps: int
    step: int
    """From 1."""
    salt: bytes
    guards: tuple[Guard, ...]
    judges: tuple[str, ...]
    per_request: bool
    score_edges: tuple[float, ...]


class Shadow(NamedTuple):
    """A version that scores a copy of the traffic."""

    rollout_id: int
    version: ServedVersion
    mirrored_bps: int
    latency_slack: float
    slo_ns: int


def canary_of(
    model: str, rollouts: Iterable[Rollout], records: Mapping[tuple[str, int], VersionRecord]
) -> Canary | None:
    """The model's canary, or the holdback that follows it; None while there is neither."""
    for rollout in rollouts:
        if rollout.model == model and rollout.kind is Kind.ROLLOUT and rollout.phase is not Phase.SHADOW:
            policy = rollout.policy
            return Canary(
                rollout_id=rollout.rollout_id,
                challenger=served(records[model, rollout.challenger]),
                control=served(records[model, rollout.control]),
                weight_bps=rollout.weight_bps,
                step=rollout.step + 1 + (rollout.phase is Phase.HOLDBACK),
                salt=bytes.fromhex(rollout.salt),
                # Who promoted against the evidence took its statistical guards away, and must hear of it instead.
                guards=() if rollout.without_evidence else guards(policy),
                judges=tuple(json.loads(rollout.judges_json)),
                per_request=any(bad.unit is Unit.REQUEST for _, bad in policy.metrics.bad()),
                score_edges=tuple(json.loads(rollout.score_edges_json)),
            )
    return None


def shadows_of(
    model: str, rollouts: Iterable[Rollout], records: Mapping[tuple[str, int], VersionRecord]
) -> tuple[Shadow, ...]:
    """The model's shadows. A canary is mirrored too: live latencies are biased by how large batches are."""
    return tuple(
        _shadow(rollout, records[model, rollout.challenger])
        for rollout in rollouts
        if rollout.model == model and rollout.phase is not Phase.HOLDBACK
    )


def guards(policy: Policy) -> tuple[Guard, ...]:
    """What one gateway may judge alone, each at its slot's part of the metric's alpha."""
    return tuple(
        Guard(
            metric=metric,
            alpha=slot_alpha(policy.alpha_of(bad.alpha_share_pct), policy.gateway_slots),
            rho=bad.rho,
            two_sided=metric is Metric.DECISIONS,
            sample_bps=bad.sample_bps,
        )
        for metric, bad in policy.metrics.bad()
        if metric in COUNTED
    )


def _shadow(rollout: Rollout, challenger: VersionRecord) -> Shadow:
    policy = rollout.policy
    latency = policy.metrics.latency
    return Shadow(
        rollout_id=rollout.rollout_id,
        version=served(challenger),
        mirrored_bps=policy.mirrored_share_bps,
        latency_slack=latency.slack if latency else PLAIN_SLACK,
        slo_ns=int(latency.slo_ms * NS_PER_MS) if latency and latency.slo_ms else 0,
    )
