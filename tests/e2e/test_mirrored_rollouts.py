"""Rollouts that begin in shadow: what the mirrors of real gateways see decides whether anybody is ever answered."""

from __future__ import annotations

import json

import pytest

from control.v1 import rollout_pb2
from tests.e2e.installation import GOOD, TRAPS, Caller, Installation
from tests.support import until

POLICY = """
shadow: {pairs: 300, max_flip_rate: 1, max_latency_ratio: 100, maximum_s: 3600}
steps: [{weight_bps: 5000, minimum_s: 3600}]
metrics:
  errors: {advance: {ceiling: {max_bad_rate: 0.2}}}
  non_finite: {advance: {ceiling: {max_bad_rate: 0.2}}}
  latency: null
  decisions: null
maximum_s: 36000
"""


def moved(here: Installation, caller: Caller, rollout_id: int) -> rollout_pb2.Rollout:
    """The rollout, once it has left the shadow under traffic that only the champion answers."""

    def look() -> rollout_pb2.Rollout | None:
        before = here.rollout(rollout_id)
        for key in (GOOD[0], GOOD[1], TRAPS[0]):
            caller.score(key)
        found = here.rollout(rollout_id)
        return None if found.phase == "shadow" and before.phase == "shadow" else found

    return until(look, 120)


def test_a_sound_version_leaves_the_shadow_for_a_canary(here: Installation) -> None:
    """On pairs; while it was there it answered nobody, and what the mirror saw is shown."""
    with here.gateway("gateway", "--mirror-niceness=0") as caller:
        started = here.start(here.register(), POLICY)
        assert started.phase == "shadow"
        assert caller.score(GOOD[0]).version == 1
        found = moved(here, caller, started.rollout_id)
        assert (found.phase, found.weight_bps, found.outcome) == ("canary", 5_000, "")
        request = rollout_pb2.GetRolloutRequest(rollout_id=started.rollout_id)
        shown = here.mia.call(here.mia.rollout.GetRollout, request)
        (report,) = json.loads(shown.mirror_json).values()
        assert report["pairs"] >= 300
        assert report["exceptions"] == report["non_finite"] == 0
        assert report["figures_json"]["mean_difference"] == pytest.approx(1.0)
        until(lambda: {caller.score(key).version for key in GOOD[:20]} == {1, 2})


@pytest.mark.parametrize("breaks", ["raising", "nan"])
def test_a_version_that_fails_in_the_shadow_never_answers_anybody(here: Installation, breaks: str) -> None:
    """It is rolled back by what it did on mirrored rows, and every caller was answered by the champion."""
    with here.gateway("gateway", "--mirror-niceness=0") as caller:
        started = here.start(here.register(breaks), POLICY)
        over = moved(here, caller, started.rollout_id)
        assert over.outcome == "rolled_back"
        assert "mirrored rows" in over.reason
        assert {reply.version for reply in caller.scores(TRAPS[:20])} == {1}
