"""A forecast in words, for who starts a rollout. Pure."""

from __future__ import annotations

import math

from control.rollout.forecast import Traffic, forecast
from control.rollout.policy import Policy
from gateway.contract.routing import WHOLE_BPS

UNKNOWN = "No traffic of this model was seen lately, so nothing can be said about how long the policy will take."


def lines(policy: Policy, traffic: Traffic | None, shadow_only: bool) -> tuple[list[str], list[str]]:
    """What to expect, and what is doubtful about it: a sentence each."""
    if traffic is None or traffic.requests_per_s <= 0:
        return [], [UNKNOWN]
    said = [
        f"At {traffic.requests_per_s:,.3g} rows/s from about {traffic.entities_per_hour:,.0f} entities an hour:",
    ]
    if policy.shadow is not None:
        seconds = policy.shadow.pairs * WHOLE_BPS / policy.mirrored_share_bps / traffic.requests_per_s
        said.append(f"the shadow takes {duration(seconds)} at least ({policy.shadow.pairs:,} pairs)")
    if shadow_only:
        return said, []
    found = forecast(policy, traffic)
    said += [
        *(
            f"the step at {step.weight_bps / 100:g} % "
            + (f"takes {duration(step.seconds)} ({step.waits_for})" if math.isfinite(step.seconds) else "never ends")
            for step in found.steps
        ),
        *(
            f"{catch.times_as_bad:g} times as many bad events in {catch.metric} are "
            + (f"caught after {duration(catch.seconds)}" if math.isfinite(catch.seconds) else "not caught")
            for catch in found.catches
        ),
    ]
    if math.isfinite(found.seconds):
        said.append(f"so a sound version is promoted after about {duration(found.seconds)} of canary")
    return said, list(found.warnings)


def duration(seconds: float) -> str:
    """A time that a person can take in."""
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"
