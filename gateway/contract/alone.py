"""How a metric's alpha is shared between those who judge, and the test that all of them make.

The control plane judges all gateways' evidence at half of a metric's alpha; a fixed number of slots share the other
half equally, whether or not a gateway is connected in each, so that all of it together errs with probability at most
alpha (union bound). A gateway without a slot has its deterministic guards only, and no gateway ever advances. What a
gateway judges by is its own entities, each by its first bad event in the rollout there, ever: a restart forgets none.
"""

from __future__ import annotations

from gateway.contract.evidence import Counts, change, harm


def central_alpha(alpha: float) -> float:
    """The part of a metric's alpha at which the control plane judges."""
    return alpha / 2


def slot_alpha(alpha: float, slots: int) -> float:
    """The part of a metric's alpha at which one gateway judges alone."""
    return alpha / (2 * slots)


def bad_event_evidence(bad: Counts, rho: float, two_sided: bool) -> float:
    """The log e-value of a bad-event metric, in the direction that its policy asks about."""
    return change(bad, rho) if two_sided else harm(bad, rho)
