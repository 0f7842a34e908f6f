"""What a gateway judges alone: whether its own evidence suffices to step back, on its own part of alpha.

The control plane judges all gateways' evidence at half of a metric's alpha; a fixed number of slots share the other
half equally, whether or not a gateway is connected in each, so that all of it together errs with probability at most
alpha (union bound). A gateway without a slot has its deterministic guards only, and no gateway ever advances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.contract.evidence import Counts, change, harm, reached, threshold


class Watched(NamedTuple):
    """One metric that may send a gateway back, as its policy has it, with the gateway's own evidence."""

    metric: str
    alpha: float
    """The metric's whole part of the rollout's alpha."""
    rho: float
    """How many times as likely bad events may be in the challenger."""
    two_sided: bool
    """Whether a rate that falls is as bad as one that rises."""
    bad: Counts
    """Entities by their first bad event in the rollout at this gateway, ever: a restart forgets none of them."""


class Breach(NamedTuple):
    """A metric whose evidence suffices."""

    metric: str
    log_e: float
    threshold: float


def central_alpha(alpha: float) -> float:
    """The part of a metric's alpha at which the control plane judges."""
    return alpha / 2


def slot_alpha(alpha: float, slots: int) -> float:
    """The part of a metric's alpha at which one gateway judges alone."""
    return alpha / (2 * slots)


def bad_event_evidence(bad: Counts, rho: float, two_sided: bool) -> float:
    """The log e-value of a bad-event metric, in the direction that its policy asks about."""
    return change(bad, rho) if two_sided else harm(bad, rho)


def breach(watched: Sequence[Watched], slots: int) -> Breach | None:
    """The first metric whose evidence at this gateway says to step back now; None while there is none."""
    for item in watched:
        found = bad_event_evidence(item.bad, item.rho, item.two_sided)
        alpha = slot_alpha(item.alpha, slots)
        if reached(found, alpha):
            return Breach(item.metric, found, threshold(alpha))
    return None
