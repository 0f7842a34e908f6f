"""What operators do at night: step backs that are recorded and followed, stops, pins, and who is away."""

from __future__ import annotations

import json
import time

import pytest

from control.rollout.gateway_records import last_pinned
from control.rollout.lifecycle import Stage
from control.rollout.stepback import Withdrawal, follow
from control.rollout.version import VersionRecord
from control.security import Role
from control.server import ControlPlane
from control.v1 import data_plane_pb2 as wire
from control.v1 import governance_pb2, rollout_pb2
from tests.control.planes import Client, client_for, key, make_champion
from tests.control.test_rollout import WatchingGateway, approved, gateway, status
from tests.support import until

MINUTE_NS = 60_000_000_000


def champions(plane: ControlPlane, mia: Client, ben: Client, model: str, count: int) -> int:
    """Versions that became champion one after the other; returns the revision of the last."""
    return [make_champion(mia, ben, model, approved(plane, ben, model)) for _ in range(count)][-1]


def withdrawal(watching: WatchingGateway, model: str, number: int = 1, kept: int | None = None) -> wire.Withdrawal:
    """What a gateway tells that stepped back from the champion of the table that it has, or from a kept version."""
    table = watching.tables[-1]
    route = next(route for route in table.models if route.model == model)
    served = route.champion if kept is None else route.kept[kept]
    return wire.Withdrawal(
        number=number,
        model=model,
        version=served.version,
        digest=served.digest,
        kind="manual",
        actor="ann",
        reason="it errs",
        time_ns=1_700_000_000_000_000_000,
        history_id=table.history_id,
        revision=table.revision,
    )


def entries(mia: Client, subject: str, action: str) -> list[governance_pb2.AuditEntry]:
    """The audit trail's entries of one kind about something, the newest first."""
    request = governance_pb2.ListAuditRequest(subject=subject)
    found = mia.call(mia.governance.ListAudit, request).entries
    return [entry for entry in found if entry.action == action]


def answering(watching: WatchingGateway, model: str) -> int:
    """Who answers by the newest table."""
    return next(route.champion.version for route in watching.tables[-1].models if route.model == model)


def test_a_step_back_is_recorded_once_with_its_time_and_rolls_back_for_all(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """However often it is told; whoever told it is told which entry records it, also over another connection."""
    champions(plane, mia, ben, "churn", 2)
    with gateway(plane, "g1") as one, gateway(plane, "g2") as two:
        told = withdrawal(one, "churn")
        for _ in range(3):
            one.tell(told)
        until(lambda: one.acknowledged)
        until(lambda: answering(two, "churn") == 1)
    (entry,) = entries(mia, "churn/2", "version.step_back")
    details = json.loads(entry.details_json)
    assert (details["gateway_id"], details["actor"], details["time_ns"]) == ("g1", "ann", told.time_ns)
    (rolled_back,) = entries(mia, "churn/2", "version.roll_back")
    assert "ann stepped gateway g1 back at 2023-11-14" in rolled_back.details_json
    assert status(mia, "churn").champion_version == 1
    acknowledged = one.acknowledged[-1]
    assert (acknowledged.number, acknowledged.sequence) == (1, entry.sequence)
    assert acknowledged.revision == rolled_back.sequence
    with gateway(plane, "g1") as again:
        again.tell(told)
        assert until(lambda: again.acknowledged)[-1] == acknowledged
    assert len(entries(mia, "churn/2", "version.step_back")) == 1


def test_a_step_back_over_several_versions_goes_where_the_gateway_went(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """What it passed over is recorded, and passed over."""
    champions(plane, mia, ben, "deep", 3)
    with gateway(plane, "g1") as one:
        one.tell(withdrawal(one, "deep", 11), withdrawal(one, "deep", 12, kept=0))
        until(lambda: answering(one, "deep") == 1)
        until(lambda: len(one.acknowledged) == 2)
    assert status(mia, "deep").champion_version == 1


def test_a_step_back_that_stays_shows_in_the_status(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Where no former champion is left the model stays as it is, and the gateway that differs is named."""
    champions(plane, mia, ben, "only", 1)
    with gateway(plane, "g1", confirms=False) as one:
        one.tell(withdrawal(one, "only", 21))
        until(lambda: one.acknowledged)
        assert any(
            problem.startswith("STEPPED_BACK: gateway g1 does not serve only/1")
            for problem in status(mia, "only").problems
        )
        found = mia.call(mia.rollout.GetStatus, rollout_pb2.GetStatusRequest()).gateways
        assert [(back.version, back.actor) for back in found[0].stepped_back] == [(1, "ann")]
    assert status(mia, "only").champion_version == 1


def record(version: int, stage: Stage, champion_sequence: int) -> VersionRecord:
    """A version that is or was champion."""
    return VersionRecord(
        "churn", version, stage, champion_sequence, f"d{version}", "m", "g", "{}", "ana", 1, 0, champion_sequence
    )


@pytest.mark.parametrize(
    ("revision", "history_id", "told_before", "target"),
    [
        (9, "h", frozenset(), 1),
        (8, "h", frozenset(), None),  # promoted anew since
        (8, "another", frozenset(), 1),  # numbers of another history say nothing
        (9, "h", frozenset({1}), None),
    ],
)
def test_only_what_still_leads_as_it_did_is_rolled_back(
    revision: int, history_id: str, told_before: frozenset[int], target: int | None
) -> None:
    """A decision that is newer than the withdrawal stands."""
    known = [record(2, Stage.CHAMPION, 9), record(1, Stage.STANDBY, 5)]
    told = Withdrawal(1, "churn", 2, "d2", "manual", "ann", "", 1, history_id, revision)
    found = follow([told], known, "h", told_before)
    assert (found.target.version if found else None) == target


def stop_request(model: str) -> rollout_pb2.StopModelRequest:
    """A request to stop, under a key of its own."""
    return rollout_pb2.StopModelRequest(idempotency_key=key(), model=model, reason="it errs", wait_ms=5_000)


def test_a_stopped_model_is_stopped_on_every_gateway_until_it_is_started(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """Both are revisions that gateways confirm; neither moves a version, and promotion and rollback go on."""
    champions(plane, mia, ben, "stop", 2)
    with gateway(plane, "g1") as one:
        stopped = mia.call(mia.rollout.StopModel, stop_request("stop"))
        assert (list(stopped.confirmed), stopped.fallback) == (["g1"], False)
        route = next(route for route in one.tables[-1].models if route.model == "stop")
        assert (one.tables[-1].revision, route.champion.version) == (stopped.revision, 2)
        assert route.stopped_because == "it errs"
        found = status(mia, "stop")
        assert (found.champion_version, found.stopped.actor, found.stopped.reason) == (2, "mia", "it errs")
        assert found.problems[0].startswith("STOPPED_BY_OPERATOR: mia stopped it: it errs")
        assert "stopped already" in mia.refused(mia.rollout.StopModel, stop_request("stop")).message
        request = rollout_pb2.RollBackRequest(idempotency_key=key(), model="stop", reason="too bad")
        mia.call(mia.rollout.RollBack, request)
        start = rollout_pb2.StartModelRequest(idempotency_key=key(), model="stop", reason="mended", wait_ms=5_000)
        started = mia.call(mia.rollout.StartModel, start)
        assert (started.version, list(started.confirmed)) == (1, ["g1"])
        route = next(route for route in one.tables[-1].models if route.model == "stop")
        assert not route.HasField("stopped_because")
    assert [len(entries(mia, "stop", f"model.{verb}")) for verb in ("stop", "start")] == [1, 1]
    start.idempotency_key = key()
    assert "is not stopped" in mia.refused(mia.rollout.StartModel, start).message
    assert "nothing to stop" in mia.refused(mia.rollout.StopModel, stop_request_of_none(plane)).message
    assert ben.refused(ben.rollout.StopModel, stop_request("stop")).reason == "ROLE_MISSING"


def stop_request_of_none(plane: ControlPlane) -> rollout_pb2.StopModelRequest:
    """For a model without a champion."""
    approved(plane, client_for(plane, "bea", Role.APPROVER), "none")
    return stop_request("none")


def pinned_ns(plane: ControlPlane, model: str, version: int) -> int:
    """When callers last named the version, as the store has it."""
    with plane.store.read() as connection:
        return last_pinned(connection, model, version)[0]


def test_a_version_that_callers_named_within_a_day_is_not_retired(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The refusal says when and where, and from when on it is possible; what is older does not count."""
    champions(plane, mia, ben, "pinned", 3)
    now_ns = time.time_ns()
    with gateway(plane, "g1") as one:
        one.tell(
            pinned=[
                wire.PinnedVersion(model="pinned", version=1, last_ns=now_ns - 25 * 60 * MINUTE_NS),
                wire.PinnedVersion(model="pinned", version=2, last_ns=now_ns - 10 * MINUTE_NS),
            ]
        )
        request = rollout_pb2.RetireVersionRequest(idempotency_key=key(), model="pinned", version=2, reason="old")
        until(lambda: pinned_ns(plane, "pinned", 2))
        refused = mia.refused(mia.rollout.RetireVersion, request)
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "VERSION_PINNED")
        assert "at gateway g1" in refused.message
        assert int(refused.facts["possible_ns"]) == now_ns + (24 * 60 - 10) * MINUTE_NS
    request = rollout_pb2.RetireVersionRequest(idempotency_key=key(), model="pinned", version=1, reason="old")
    assert mia.call(mia.rollout.RetireVersion, request).sequence


def test_a_revision_of_another_history_confirms_nothing(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Its numbers may be larger than any of ours; the gateway follows another store, such as before a restore."""
    champions(plane, mia, ben, "foreign", 2)
    with gateway(plane, "g1", confirms=False) as one:
        one.follow("another history", 1_000_000)
        request = rollout_pb2.RollBackRequest(idempotency_key=key(), model="foreign", reason="x", wait_ms=300)
        assert list(mia.call(mia.rollout.RollBack, request).pending) == ["g1"]
        one.follow(plane.store.history_id, 1_000_000)
        request.wait_ms = 10_000
        assert list(mia.call(mia.rollout.RollBack, request).confirmed) == ["g1"]


def test_a_gateway_that_went_away_is_named_by_a_rollback_and_by_the_status(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """It may go on to answer by the table that it had."""
    champions(plane, mia, ben, "away", 2)
    with gateway(plane, "g8"):
        pass
    with gateway(plane, "g9"):
        request = rollout_pb2.RollBackRequest(idempotency_key=key(), model="away", reason="x", wait_ms=5_000)
        answer = until(lambda: answer_without(mia, request, "g9"))
        assert list(answer.confirmed) == ["g9"]
        assert "g8" in answer.away
        found = mia.call(mia.rollout.GetStatus, rollout_pb2.GetStatusRequest())
        gone = next(gone for gone in found.away if gone.gateway_id == "g8")
        assert gone.problem.startswith("GATEWAY_AWAY: gateway g8 is not connected")


def answer_without(mia: Client, request: rollout_pb2.RollBackRequest, here: str) -> rollout_pb2.RollBackResponse:
    """The answer to a rollback, which is the same however often it is asked for."""
    answer = mia.call(mia.rollout.RollBack, request)
    assert here not in answer.away
    return answer
