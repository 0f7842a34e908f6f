"""Steps that try a version under traffic: a good one, which goes all the way, and planted ones, which go back."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from functools import partial
from typing import Final, NamedTuple

from control.demo import churn, policies
from control.demo.callers import Traffic
from control.demo.checks import require_named_version, require_no_failure, require_version
from control.demo.outcomes import Outcomes
from control.demo.recipes import Planted
from control.demo.services import until
from control.demo.story import CONFIRM_S, Story
from control.demo.watching import Watched, moves, rollback, watch
from control.v1.rollout_pb2 import Rollout

CALLERS: Final = 4
PAUSE_S: Final = 0.008
"""What a caller takes between its calls: two cores serve, watch and judge beside the callers."""
CALLS_BEFORE: Final = 300
CALLS_AFTER: Final = 300
CALLS_IN_ALL: Final = 1_000
TRAFFIC_S: Final = 60.0
LIMIT_S: Final = 330.0
"""Seconds that a rollout gets: longer than its policy."""


class Trial(NamedTuple):
    """What is tried, and how."""

    version: int
    policy_yaml: str
    with_outcomes: bool
    """Whether the subscribers' outcomes become known meanwhile."""


def to_full_traffic(story: Story, number: int) -> str:
    """Tries a version and waits until its evidence has made it the champion of all; no call may fail."""
    watched = _try(story, Trial(number, policies.GOOD, with_outcomes=True))
    story.report.calls_during_promotion = len(watched.replies)
    if watched.rollout.outcome != "promoted":
        raise ValueError(f"it was {watched.rollout.outcome}: {watched.rollout.reason}")
    _require(story, watched, number)
    calls = f"{len(watched.replies):,} calls, none failed; {watched.outcomes:,} outcomes told"
    return f"by itself: {moves(watched.sights)}; {calls}"


def back_by_itself(story: Story, planted: Planted) -> str:
    """Tries a version with a mistake, and waits until it is found; no call may fail."""
    champion = story.standings()[-1].champion
    policy = policies.bad(planted.kind)
    watched = _try(story, Trial(planted.version, policy, with_outcomes=planted.kind == "quality"))
    found = rollback(planted.kind, watched, story.truth)
    story.report.rollbacks.append(found)
    reason = watched.rollout.reason
    if not found.rolled_back or not any(word in reason for word in planted.found_by):
        raise ValueError(f"it was {watched.rollout.outcome} because of something else: {reason}")
    _require(story, watched, champion)
    return (
        f"{watched.rollout.outcome.replace('_', ' ')} {found.seconds_from_first_bad_reply:.1f} s after the first of "
        f"{found.bad_replies:,} bad replies among {found.requests_until_verdict:,}, no call failed; {_gist(reason)}"
    )


def _gist(reason: str) -> str:
    """What a rollout's reason begins with, without a gateway's id and clock; `interlock rollout show` has all of it."""
    return re.split(r"; |, which ", re.sub(r"^gateway \w+ withdrew it at [^Z]*Z: ", "", reason))[0]


def _try(story: Story, trial: Trial) -> Watched:
    """Tries a version under traffic, from before its start to after its end."""
    policy = story.data / "policies" / f"{trial.version}.yaml"
    policy.parent.mkdir(exist_ok=True)
    policy.write_text(trial.policy_yaml)
    with Traffic(story.target, story.held_out, CALLERS, PAUSE_S) as traffic:
        _await_replies(story, traffic, CALLS_BEFORE)
        told = Outcomes(story.target.address, traffic.replies, story.truth)
        with told if trial.with_outcomes else nullcontext():
            started = story.people["omar"].start_rollout(churn.MODEL, trial.version, trial.policy_yaml)
            sights = watch(partial(_look, story, started.rollout.rollout_id), LIMIT_S)
            until(lambda: story.is_confirmed() or None, CONFIRM_S, "the gateway to follow")
        confirmed_ns = time.monotonic_ns()
        _await_replies(story, traffic, max(CALLS_IN_ALL, len(traffic.replies) + CALLS_AFTER))
    story.report.failed_calls += sum(bool(reply.failure) for reply in traffic.replies)
    require_no_failure(traffic.replies)
    if told.problems:
        raise ValueError(f"{len(told.problems)} outcomes were not recorded, the first with {told.problems[0]}")
    return Watched(traffic.replies, sights, confirmed_ns, told.recorded)


def _require(story: Story, watched: Watched, number: int) -> None:
    """Holds every reply against its revision and its version's scores, and the last ones against who answers now."""
    found = story.standings()
    require_named_version(watched.replies, found)
    require_version([reply for reply in watched.replies if reply.began_ns > watched.confirmed_ns], number, found)
    story.compare(watched.replies)


def _look(story: Story, rollout_id: int) -> Rollout:
    story.services.check()
    return story.people["omar"].rollout(rollout_id=rollout_id).rollout


def _await_replies(story: Story, traffic: Traffic, count: int) -> None:
    until(lambda: len(traffic.replies) >= count or None, TRAFFIC_S, f"{count:,} replies")
    story.services.check()
