"""Rollouts on real gateways: what a version's answers lead to, with and without a control plane."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.blame import trying_path
from gateway.contract.routing import is_challenger
from gateway.trying import tried as marked
from gateway.v1 import scoring_pb2
from gateway.wire.routes import parse_routes
from tests.e2e.installation import GOOD, TRAPS, Caller, Installation
from tests.gateway import tiny
from tests.support import until

CANARY = """
shadow: null
steps: [{weight_bps: 5000, minimum_s: 0}]
metrics:
  errors: {advance: {ceiling: {max_bad_rate: 0.2}}}
  non_finite: {advance: {ceiling: {max_bad_rate: 0.2}}}
  latency: null
  decisions: null
maximum_s: 3600
"""
CHALLENGER = scoring_pb2.ARM_CHALLENGER


def test_a_version_that_fails_is_off_traffic_after_three_tries(here: Installation) -> None:
    """The callers are answered by the control, and the version is quarantined everywhere."""
    with here.gateway() as caller:
        version = here.register("raising")
        started = here.start(version, CANARY)
        replies = caller.scores(TRAPS)
        assert {reply.score for reply in replies} == {21.0}
        tried = [reply for reply in replies if reply.arm == CHALLENGER]
        assert len(tried) == 3
        over = until(lambda: found if (found := here.rollout(started.rollout_id)).outcome else None)
        assert over.outcome == "quarantined"
        assert "3 runs in a row failed" in over.reason
        until(lambda: len(caller.gateway.board("worker-0")["versions"]) == 1)


def provoke(caller: Caller) -> None:
    """Calls for good rows and bad ones by turns, so that no three runs in a row fail."""
    sound = next(key for key in GOOD if caller.score(key).arm == CHALLENGER)
    for trap in TRAPS:
        assert caller.score(trap).score == 21.0
        caller.score(sound)


def test_a_version_that_fails_now_and_then_is_rolled_back_on_evidence(here: Installation) -> None:
    """Only statistics see it: far more of its rows are bad than of the control's."""
    with here.gateway() as caller:
        started = here.start(here.register("nan"), CANARY)
        provoke(caller)
        over = until(lambda: found if (found := here.rollout(started.rollout_id)).outcome else None)
    assert over.outcome == "rolled_back"
    assert "non_finite" in over.reason


def test_a_gateway_rolls_back_alone_and_never_advances(tmp_path: Path) -> None:
    """The control plane is gone in the middle of a canary; what the gateway did is recorded when it is back."""
    here = Installation(tmp_path)
    with ExitStack() as all_the_while:
        with here.control() as plane:
            here.materialize()
            here.promote_first()
            caller = all_the_while.enter_context(here.gateway())
            started = here.start(here.register("nan"), CANARY)
            address = plane.address
        caller.scores(GOOD)
        provoke(caller)
        until(lambda: caller.score(GOOD[0]).arm == scoring_pb2.ARM_CHAMPION and not tried(caller))
        with here.control(address=address):
            over = until(lambda: found if (found := here.rollout(started.rollout_id)).outcome else None, 30)
            assert over.outcome == "rolled_back"
            entry = until(lambda: next((one for one in here.trail(2) if one.action == "version.step_back"), None))
            assert '"kind":"evidence"' in entry.details_json


def tried(caller: Caller) -> set[int]:
    """The versions other than the first that a gateway's worker still serves."""
    return {one["version"] for one in caller.gateway.board("worker-0")["versions"]} - {1}


def test_a_good_version_goes_to_full_traffic_by_itself(here: Installation) -> None:
    """On clean rows alone: neither arm ever errs."""
    with here.gateway() as caller:
        started = here.start(here.register(), CANARY)
        caller.scores(GOOD)
        held = until(lambda: found if (found := here.rollout(started.rollout_id)).phase == "holdback" else None)
        assert held.weight_bps == 9_900
        until(lambda: caller.score(GOOD[1]).score == 12.0 or caller.score(GOOD[2]).score == 12.0)


@pytest.mark.parametrize("how", ["crashes", "hangs"])
def test_a_version_that_takes_its_worker_down_is_withdrawn(here: Installation, how: str) -> None:
    """The worker is started again without it, and the champion answers."""
    with here.gateway() as caller:
        started = here.start(here.register("spinning"), CANARY)
        salt = salt_of(caller.gateway.data)
        trap = next(key for key in TRAPS if is_challenger(salt, key.encode(), 5_000))
        until(lambda: caller.score(sound(salt)).arm == CHALLENGER)
        under_way = caller.begin(trap)  # a call that nobody holds is cancelled
        until(lambda: marked(trying_path(caller.gateway.data / "run", 0)))
        if how == "crashes":
            os.kill(caller.gateway.pid("worker-0"), signal.SIGSEGV)
        over = until(lambda: found if (found := here.rollout(started.rollout_id)).outcome else None, 40)
        assert over.outcome == "quarantined"
        assert "worker 0 ended" in over.reason
        until(lambda: (reply := caller.patient(trap)) and reply.score == 21.0, 40)
        under_way.cancel()


def sound(salt: bytes) -> str:
    """A subscriber of the challenger on whom nothing breaks."""
    return next(key for key in GOOD if is_challenger(salt, key.encode(), 5_000))


def salt_of(data: Path) -> bytes:
    """The salt of the gateway's one rollout."""
    return parse_routes((data / "routes.pb").read_bytes()).canaries[tiny.MODEL].salt
