"""A version that was withdrawn is tried again once it is approved again: by the gateway that withdrew it, too."""

from __future__ import annotations

import pytest

from control.v1 import governance_pb2, rollout_pb2
from gateway.stepback import Kind
from gateway.wire.routes import parse_routes
from gateway.withdrawals import Withdrawals
from tests.control.planes import key
from tests.e2e.installation import GOOD, TRAPS, Caller, Installation
from tests.e2e.test_rollouts import CANARY, CHALLENGER
from tests.gateway import tiny
from tests.support import until


def approve(here: Installation, version: int) -> None:
    """Once more, as after the cause was found: the same bytes."""
    request = governance_pb2.ApproveVersionRequest(idempotency_key=key(), model=tiny.MODEL, version=version)
    here.bob.call(here.bob.governance.ApproveVersion, request)


def is_tried(caller: Caller) -> bool:
    """Whether a subscriber on whom nothing breaks is answered by the challenger."""
    return any(reply.arm == CHALLENGER and reply.version > 1 for reply in caller.scores(GOOD[:10]))


@pytest.mark.parametrize("restarts", [False, True])
def test_a_withdrawn_version_is_tried_again_after_a_new_approval(here: Installation, restarts: bool) -> None:
    """And may fail again, which is a new withdrawal; also where the gateway was away meanwhile."""
    version = here.register("raising")
    with here.gateway() as caller:
        first = here.start(version, CANARY)
        until(lambda: is_tried(caller))
        caller.scores(TRAPS)
        until(lambda: here.rollout(first.rollout_id).outcome == "quarantined")
        until(lambda: not Withdrawals(caller.gateway.data).read())
        if not restarts:
            try_again(here, caller, version)
    if restarts:
        with here.gateway() as caller:
            try_again(here, caller, version)


def try_again(here: Installation, caller: Caller, version: int) -> None:
    """Approves, starts and fails."""
    approve(here, version)
    second = here.start(version, CANARY)
    until(lambda: is_tried(caller))
    assert not here.rollout(second.rollout_id).outcome
    replies = caller.scores(TRAPS)
    assert {reply.score for reply in replies} == {21.0}
    over = until(lambda: found if (found := here.rollout(second.rollout_id)).outcome else None)
    assert (over.outcome, "3 runs in a row failed" in over.reason) == ("quarantined", True)


def test_a_withdrawal_that_is_told_late_ends_no_later_rollout(here: Installation) -> None:
    """The gateway withdrew the version, and was gone before it could say so: since then it was approved again."""
    version = here.register()
    with here.gateway() as caller:
        first = here.start(version, CANARY)
        data = caller.gateway.data
        until(lambda: parse_routes((data / "routes.pb").read_bytes()).canaries)
    table = parse_routes((data / "routes.pb").read_bytes())
    Withdrawals(data).add(table, [table.canaries[tiny.MODEL].challenger], (Kind.GUARD, "gateway", "it failed"))
    back = rollout_pb2.RollBackRolloutRequest(
        idempotency_key=key(), model=tiny.MODEL, version=version, reason="looked odd"
    )
    here.mia.call(here.mia.rollout.RollBackRollout, back)
    assert here.rollout(first.rollout_id).outcome == "rolled_back"
    approve(here, version)
    second = here.start(version, CANARY)
    with here.gateway() as caller:
        until(lambda: is_tried(caller))
        until(lambda: not Withdrawals(data).read())
        assert not here.rollout(second.rollout_id).outcome


def test_a_rollout_that_began_while_a_gateway_was_away_is_tried_there_when_it_is_back(here: Installation) -> None:
    """Its slot to judge alone comes later too."""
    version = here.register()
    with here.gateway():
        pass
    started = here.start(version, CANARY)
    with here.gateway() as caller:
        until(lambda: is_tried(caller))
        assert not here.rollout(started.rollout_id).outcome
        routes = caller.gateway.data / "routes.pb"
        until(lambda: parse_routes(routes.read_bytes()).canaries[tiny.MODEL].judges)
