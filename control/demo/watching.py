"""A rollout under traffic, as callers and operators see it, and what is counted of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from control.demo import churn
from control.demo.callers import Reply
from control.demo.steps import Rollback
from control.v1.rollout_pb2 import Rollout

LOOK_S: Final = 0.1
BACK: Final = frozenset({"rolled_back", "quarantined"})


class Sight(NamedTuple):
    """A rollout at a moment at which it had changed; times are monotonic."""

    seen_ns: int
    rollout: Rollout


class Watched(NamedTuple):
    """A rollout from before its start to after its end."""

    replies: list[Reply]
    """By the time at which they came."""
    sights: list[Sight]
    """The first is its start, the last its end."""
    confirmed_ns: int
    """Since when the gateway follows that end."""
    outcomes: int
    """How many were recorded meanwhile."""

    @property
    def rollout(self) -> Rollout:
        """As it ended."""
        return self.sights[-1].rollout

    @property
    def over_ns(self) -> int:
        """When it had ended and no call was tried on the version any more."""
        tried = [reply.ended_ns for reply in self.replies if reply.challenged]
        return max([self.sights[-1].seen_ns, *(tried if self.rollout.outcome in BACK else [])])


def watch(look: Callable[[], Rollout], limit_s: float) -> list[Sight]:
    """Looks until the rollout is over; raises TimeoutError saying where it stands where that takes too long."""
    found: list[Sight] = []
    deadline = time.monotonic() + limit_s
    while not found or not found[-1].rollout.outcome:
        rollout = look()
        if not found or _place(rollout) != _place(found[-1].rollout):
            found.append(Sight(time.monotonic_ns(), rollout))
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {limit_s:.0f} s it is in {_said(rollout)}: {rollout.reason or 'not judged yet'}")
        time.sleep(LOOK_S)
    return found


def is_bad(reply: Reply, number: int, truth: Mapping[str, int]) -> bool:
    """Whether the version on trial failed on the call, or decided otherwise than the subscriber."""
    if not reply.challenged:
        return False
    return reply.version != number or reply.decision != (churn.CALL if truth[reply.key] else churn.LEAVE_ALONE)


def rollback(kind: str, watched: Watched, truth: Mapping[str, int]) -> Rollback:
    """What it took to find a planted mistake; raises ValueError where no caller ever met it."""
    rollout, over_ns = watched.rollout, watched.over_ns
    bad = [reply for reply in watched.replies if is_bad(reply, rollout.challenger, truth)]
    if not bad:
        raise ValueError(f"version {rollout.challenger} gave no bad reply: {rollout.reason}")
    first_ns = min(reply.began_ns for reply in watched.replies if reply.challenged)
    return Rollback(
        kind=kind,
        rolled_back=rollout.outcome in BACK,
        seconds_from_first_bad_reply=round((over_ns - min(reply.ended_ns for reply in bad)) / 1e9, 3),
        bad_replies=len(bad),
        requests_until_verdict=sum(first_ns <= reply.began_ns <= over_ns for reply in watched.replies),
    )


def moves(sights: Sequence[Sight]) -> str:
    """Where a rollout stood, and for how many seconds."""
    stays = [
        f"{_said(sight.rollout)} {(after.seen_ns - sight.seen_ns) / 1e9:.0f} s" for sight, after in pairwise(sights)
    ]
    return ", ".join([*stays, _said(sights[-1].rollout)])


def _place(rollout: Rollout) -> tuple[str, int, str]:
    return rollout.phase, rollout.weight_bps, rollout.outcome


def _said(rollout: Rollout) -> str:
    if rollout.outcome:
        return "everybody" if rollout.outcome == "promoted" else "nobody"
    match rollout.phase:
        case "canary":
            return f"{rollout.weight_bps / 100:.0f} %"
        case "holdback":
            return f"all but {100 - rollout.weight_bps / 100:.0f} %"
        case _:
            return rollout.phase
