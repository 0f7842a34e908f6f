"""Rolling back: the champion before answers again, over a real server."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from control.server import ControlPlane
from control.store.tables import versions
from control.v1 import governance_pb2, rollout_pb2
from tests.control.planes import Client, add_view, key, make_champion, view_named
from tests.control.test_rollout import approved, gateway, status


def rollback(model: str, to_version: int = 0, wait_ms: int = 0) -> rollout_pb2.RollBackRequest:
    """A request to roll back, under a key of its own."""
    return rollout_pb2.RollBackRequest(
        idempotency_key=key(), model=model, to_version=to_version, reason="it errs", wait_ms=wait_ms
    )


def promoted(plane: ControlPlane, mia: Client, ben: Client, model: str, count: int) -> list[int]:
    """Versions that were promoted one after the other."""
    found = [approved(plane, ben, model) for _ in range(count)]
    for version in found:
        make_champion(mia, ben, model, version)
    return found


def test_a_rollback_reaches_the_gateways_and_lists_those_that_do_not_confirm(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The champion before answers by a revision of its own, which is the audit entry with the reason."""
    first, second = promoted(plane, mia, ben, "churn", 2)
    with gateway(plane, "g1") as one, gateway(plane, "g2", confirms=False):
        answer = mia.call(mia.rollout.RollBack, rollback("churn", wait_ms=3_000))
        assert (answer.from_version, answer.to_version) == (second, first)
        assert (list(answer.confirmed), list(answer.pending)) == (["g1"], ["g2"])
        route = next(route for route in one.tables[-1].models if route.model == "churn")
        assert (one.tables[-1].revision, route.champion.version) == (answer.revision, first)
    found = status(mia, "churn")
    assert (found.champion_version, found.promoted_by, list(found.approved_by)) == (first, "mia", ["ben"])
    assert (found.last_change.action, found.last_change.subject) == ("version.roll_back", f"churn/{second}")
    request = governance_pb2.ListAuditRequest(subject=f"churn/{second}")
    entry = mia.call(mia.governance.ListAudit, request).entries[0]
    assert (entry.sequence, entry.action) == (answer.revision, "version.roll_back")
    assert '"reason":"it errs"' in entry.details_json


def test_the_last_three_former_champions_stay_in_the_table_with_their_views(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The last one first; a view that only a former champion pins is there too."""
    view, base = view_named("calls"), view_named("base")
    add_view(plane.store, view)
    add_view(plane.store, base)
    for number in range(1, 6):
        version = approved(plane, ben, "kept", (view,) if number == 3 else (base,))
        make_champion(mia, ben, "kept", version)
    with gateway(plane, "g1") as one:
        route = next(route for route in one.tables[-1].models if route.model == "kept")
        assert [served.version for served in route.kept] == [4, 3, 2]
        assert view.digest() in {pinned.hash for pinned in one.tables[-1].views}
    assert list(status(mia, "kept").kept_versions) == [4, 3, 2]
    assert mia.call(mia.rollout.RollBack, rollback("kept", to_version=2)).to_version == 2
    assert list(status(mia, "kept").kept_versions) == [4, 3, 1]
    retire = rollout_pb2.RetireVersionRequest(idempotency_key=key(), model="kept", version=3, reason="old")
    mia.call(mia.rollout.RetireVersion, retire)
    with gateway(plane, "g2") as two:
        route = next(route for route in two.tables[-1].models if route.model == "kept")
        assert [served.version for served in route.kept] == [4, 1]


def test_a_model_steps_back_champion_by_champion_until_none_is_left(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """What was rolled back is no target; the refusal names what to do instead."""
    promoted(plane, mia, ben, "steps", 3)
    assert [mia.call(mia.rollout.RollBack, rollback("steps")).to_version for _ in range(2)] == [2, 1]
    refused = mia.refused(mia.rollout.RollBack, rollback("steps"))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "TRANSITION_REFUSED")
    assert "none was before it; `interlock model stop steps`" in refused.message
    assert "needs a new approval" in mia.refused(mia.rollout.RollBack, rollback("steps", 3)).message
    assert "already" in mia.refused(mia.rollout.RollBack, rollback("steps", 1)).message
    assert mia.refused(mia.rollout.RollBack, rollback("nothing")).reason == "VERSION_UNKNOWN"


def test_a_rolled_back_version_is_promoted_again_only_after_a_new_approval(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The former approval counts no more, and the same approver may give the new one."""
    _, second = promoted(plane, mia, ben, "again", 2)
    mia.call(mia.rollout.RollBack, rollback("again"))
    retry = rollout_pb2.StartRolloutRequest(idempotency_key=key(), model="again", version=second)
    assert mia.refused(mia.rollout.StartRollout, retry).reason == "APPROVAL_MISSING"
    forged = update(versions).where(versions.c.model == "again", versions.c.version == second).values(stage="champion")
    with plane.store.read() as connection, pytest.raises(IntegrityError, match="rolled back since"):
        connection.execute(forged)
    waiting = ben.call(ben.governance.ListApprovals, governance_pb2.ListApprovalsRequest(model="again")).approvals
    assert (waiting[0].version, waiting[0].state) == (second, "void")
    request = governance_pb2.ApproveVersionRequest(idempotency_key=key(), model="again", version=second)
    ben.call(ben.governance.ApproveVersion, request)
    assert make_champion(mia, ben, "again", second)
    assert list(status(mia, "again").kept_versions) == [1]


def test_a_repeated_rollback_steps_back_once(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The same key gets the first answer."""
    promoted(plane, mia, ben, "once", 3)
    request = rollback("once")
    first = mia.call(mia.rollout.RollBack, request)
    assert mia.call(mia.rollout.RollBack, request) == first
    assert status(mia, "once").champion_version == 2


def test_rolling_back_needs_the_role_that_promotes(plane: ControlPlane, ben: Client) -> None:
    """An approver alone cannot."""
    assert ben.refused(ben.rollout.RollBack, rollback("churn")).reason == "ROLE_MISSING"
