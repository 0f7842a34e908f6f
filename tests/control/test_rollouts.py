"""Rollouts over a real server: the promise, the evidence that comes up, and the moves that follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from control.rollout.case import Case
from control.rollout.judge import judge
from control.rollout.policy import Policy
from control.rollout.rollout_records import all_units
from control.security import Role
from control.server import ControlPlane
from control.store.tables import evidence_heads
from control.v1 import data_plane_pb2 as wire
from control.v1 import governance_pb2
from control.v1 import rollout_pb2 as pb
from tests.control.planes import Client, client_for, key, make_champion, running
from tests.control.test_rollout import approved, gateway, status
from tests.support import until

FAST = """
shadow: null
steps: [{weight_bps: 1000, minimum_s: 0}, {weight_bps: 5000, minimum_s: 0}]
metrics:
  errors: {advance: {ceiling: {max_bad_rate: 0.3}}}
  non_finite: {advance: {ceiling: {max_bad_rate: 0.3}}}
  latency: null
maximum_s: 3600
"""
"""A policy whose steps pass on a handful of clean rows."""
BAD, ROW = wire.EvidenceUnit.KIND_FIRST_BAD, wire.EvidenceUnit.KIND_FIRST_ROW


class Observer:
    """A gateway's observer, which reports what a test tells it to have counted."""

    def __init__(self, plane: ControlPlane, rollout: pb.Rollout, gateway_id: str = "g1") -> None:
        self.client = client_for(plane, gateway_id, Role.GATEWAY)
        self.rollout_id = rollout.rollout_id
        self.gateway_id = gateway_id
        self.next = 1

    def report(self, units: Iterable[wire.EvidenceUnit] = (), step: int = 1, **more: Any) -> int:
        """Reports units, and returns the last number that is kept."""
        told = list(units)
        request = wire.ReportEvidenceRequest(
            gateway_id=self.gateway_id,
            rollout_id=self.rollout_id,
            **{"first_number": self.next, "units": told, "step": step, **more},
        )
        self.next += len(told)
        return int(self.client.call(self.client.data_plane.ReportEvidence, request).kept_number)


def bad(entity: int, challenger: bool, weight_bps: int = 1000, metric: int = 1) -> wire.EvidenceUnit:
    """An entity's first bad event."""
    return wire.EvidenceUnit(kind=BAD, entity_hash=entity, challenger=challenger, weight_bps=weight_bps, bad=metric)


def clean(entities: Iterable[int], step: int, weight_bps: int) -> list[wire.EvidenceUnit]:
    """Entities' first rows in a step, none of them bad, in the arms' shares."""
    return [
        wire.EvidenceUnit(
            kind=ROW, entity_hash=one, challenger=one % 10_000 < weight_bps, weight_bps=weight_bps, step=step
        )
        for one in entities
    ]


def spread(n: int, start: int = 0) -> list[int]:
    """Hashes whose remainders are spread evenly."""
    return [1 + (start + index) * 10_000 + index * 10_000 // n for index in range(n)]


def start(mia: Client, model: str, version: int, policy: str = FAST, **more: Any) -> pb.StartRolloutResponse:
    """Starts a rollout."""
    request = pb.StartRolloutRequest(idempotency_key=key(), model=model, version=version, policy_yaml=policy, **more)
    answer: pb.StartRolloutResponse = mia.call(mia.rollout.StartRollout, request)
    return answer


def two(plane: ControlPlane, mia: Client, ben: Client, model: str) -> tuple[int, int]:
    """A champion and an approved version."""
    first, second = approved(plane, ben, model), approved(plane, ben, model)
    make_champion(mia, ben, model, first)
    return first, second


def rollout(client: Client, rollout_id: int) -> pb.Rollout:
    """Where a rollout stands."""
    return client.call(client.rollout.GetRollout, pb.GetRolloutRequest(rollout_id=rollout_id)).rollout


def entries(client: Client, subject: str) -> list[Any]:
    """The audit trail of a version, the newest first."""
    return list(client.call(client.governance.ListAudit, governance_pb2.ListAuditRequest(subject=subject)).entries)


def test_the_promise_is_in_the_audit_trail_before_any_gateway_hears_of_it(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """Policy, its hash and the salt are in the entry whose number is the rollout's id and the table's revision."""
    first, second = two(plane, mia, ben, "promise")
    with gateway(plane, "g1") as watching:
        answer = start(mia, "promise", second, wait_ms=5_000)
        assert list(answer.confirmed) == ["g1"]
        table = watching.tables[-1]
    found = answer.rollout
    assert (found.phase, found.step, found.weight_bps, found.challenger, found.control) == ("canary", 1, 1000, 2, 1)
    entry = next(one for one in entries(mia, f"promise/{second}") if one.action == "rollout.start")
    facts = json.loads(entry.details_json)
    assert entry.sequence == found.rollout_id == table.revision
    assert Policy.model_validate(facts["policy"]).digest() == facts["policy_sha256"]
    canary = next(route for route in table.models if route.model == "promise").canary
    assert (canary.rollout_id, canary.weight_bps, canary.step) == (found.rollout_id, 1000, 1)
    assert (canary.challenger.version, canary.control.version) == (second, first)
    assert canary.salt.hex() == facts["salt"]
    assert list(canary.judges) == ["g1"]
    assert {guard.metric for guard in canary.guards} >= {"errors", "non_finite"}
    assert any("traffic" in warning for warning in answer.warnings)
    assert status(mia, "promise").champion_version == first


def test_a_second_rollout_is_refused_with_the_name_of_the_first(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """And with the command that ends it; shadows alone are no such rollout."""
    _, second = two(plane, mia, ben, "busy")
    third, fourth = approved(plane, ben, "busy"), approved(plane, ben, "busy")
    running_one = start(mia, "busy", second).rollout
    request = pb.StartRolloutRequest(idempotency_key=key(), model="busy", version=third, policy_yaml=FAST)
    refused = mia.refused(mia.rollout.StartRollout, request)
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "ROLLOUT_REFUSED")
    assert f"busy/{second} is in canary (rollout {running_one.rollout_id})" in refused.message
    for version in (third, fourth):
        assert start(mia, "busy", version, "", shadow_only=True).rollout.phase == "shadow"
    listed = mia.call(mia.rollout.ListRollouts, pb.ListRolloutsRequest(model="busy")).rollouts
    assert [(one.challenger, one.shadow_only) for one in listed] == [(fourth, True), (third, True), (second, False)]


def test_harm_rolls_a_canary_back_by_itself(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """On evidence of entities' first bad events; the sentence and the integers are in the audit trail."""
    first, second = two(plane, mia, ben, "harm")
    with gateway(plane, "g1") as watching:
        started = start(mia, "harm", second).rollout
        observer = Observer(plane, started)
        observer.report([bad(one, challenger=True) for one in range(1, 13)])
        over = until(lambda: found if (found := rollout(mia, started.rollout_id)).outcome else None)
        until(lambda: not next(r for r in watching.tables[-1].models if r.model == "harm").HasField("canary"))
    assert (over.phase, over.outcome) == ("ended", "rolled_back")
    assert "errors: 12 in the challenger and 0 in the champion" in over.reason
    assert status(mia, "harm").champion_version == first
    entry = next(one for one in entries(mia, f"harm/{second}") if one.action == "rollout.roll_back")
    assert entry.actor == "controller"
    replayed(mia, entry)


def replayed(client: Client, entry: Any) -> None:
    """Makes a judgement again from the audit trail, and requires it to be the same to the last bit."""
    facts = json.loads(entry.details_json)
    began = next(
        one
        for one in entries(client, entry.subject)
        if one.action == "rollout.start" and one.sequence == facts["rollout_id"]
    )
    policy = Policy.model_validate(json.loads(began.details_json)["policy"])
    again = judge(policy, Case.model_validate(facts["case"]))
    assert again.model_dump(mode="json") == facts["judgement"]


def test_clean_rows_carry_it_step_by_step_to_full_traffic(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Evidence for going on is collected anew in each step; after the last one a share is held back."""
    first, second = two(plane, mia, ben, "good")
    started = start(mia, "good", second).rollout
    observer = Observer(plane, started)
    observer.report(clean(spread(400), 1, 1000))
    until(lambda: rollout(mia, started.rollout_id).step == 2)
    assert rollout(mia, started.rollout_id).weight_bps == 5000
    observer.report(clean(spread(400), 2, 5000), step=2)
    held = until(lambda: found if (found := rollout(mia, started.rollout_id)).phase == "holdback" else None)
    assert held.weight_bps == 9_900
    now = status(mia, "good")
    assert (now.champion_version, now.standby_version) == (second, first)
    advances = [one for one in entries(mia, f"good/{second}") if one.action == "rollout.advance"]
    assert len(advances) == 2
    for entry in advances:
        replayed(mia, entry)


def test_a_holdback_goes_back_and_ends_when_the_next_rollout_starts(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """`interlock rollback` during it makes the former champion answer; a new rollout supersedes it."""
    first, second = two(plane, mia, ben, "hold")
    third = approved(plane, ben, "hold")
    policy = FAST.replace("shadow: null", "shadow: null\nholdback: {share_bps: 200}")
    start(mia, "hold", second, policy)
    promote = pb.PromoteRolloutRequest(idempotency_key=key(), model="hold", reason="we know it")
    held = ben.call(ben.rollout.PromoteRollout, promote).rollout
    assert (held.phase, held.without_evidence, held.weight_bps) == ("holdback", True, 9_800)
    back = pb.RollBackRequest(idempotency_key=key(), model="hold", reason="it errs")
    answer = mia.call(mia.rollout.RollBack, back)
    assert (answer.from_version, answer.to_version) == (second, first)
    assert rollout(mia, held.rollout_id).outcome == "rolled_back"
    start(mia, "hold", third, policy)
    held = ben.call(
        ben.rollout.PromoteRollout, pb.PromoteRolloutRequest(idempotency_key=key(), model="hold", reason="again")
    ).rollout
    fourth = approved(plane, ben, "hold")
    start(mia, "hold", fourth, policy)
    assert rollout(mia, held.rollout_id).outcome == "superseded"
    assert status(mia, "hold").champion_version == third


def test_promoting_against_hold_takes_an_approver_and_a_reason(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Who moves versions otherwise may not; it stands in the audit trail as what it is."""
    _, second = two(plane, mia, ben, "forced")
    start(mia, "forced", second)
    request = pb.PromoteRolloutRequest(idempotency_key=key(), model="forced", reason="we know it")
    assert mia.refused(mia.rollout.PromoteRollout, request).code == "PERMISSION_DENIED"
    blank = pb.PromoteRolloutRequest(idempotency_key=key(), model="forced")
    assert ben.refused(ben.rollout.PromoteRollout, blank).reason == "ARGUMENT_INVALID"
    ben.call(ben.rollout.PromoteRollout, request)
    assert entries(mia, f"forced/{second}")[0].action == "rollout.promote_without_evidence"


def test_harm_after_a_promotion_without_evidence_is_an_alert(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Only deterministic guards may undo what a person decided against the evidence."""
    _, second = two(plane, mia, ben, "alert")
    started = start(
        mia, "alert", second, FAST.replace("shadow: null", "shadow: null\nholdback: {share_bps: 5000}")
    ).rollout
    ben.call(
        ben.rollout.PromoteRollout, pb.PromoteRolloutRequest(idempotency_key=key(), model="alert", reason="we know")
    )
    Observer(plane, started).report([bad(one, challenger=True, weight_bps=5000) for one in range(1, 40)], step=3)
    alerts = until(lambda: rollout(mia, started.rollout_id).alerts)
    assert "errors" in alerts[0]
    assert rollout(mia, started.rollout_id).phase == "holdback"
    assert status(mia, "alert").champion_version == second


def test_each_entity_counts_once_over_all_gateways_and_repeats(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """A report that is sent again, or by another gateway, adds nothing; one with a gap is asked for again."""
    _, second = two(plane, mia, ben, "once")
    started = start(mia, "once", second).rollout
    one, other = Observer(plane, started, "g1"), Observer(plane, started, "g2")
    units = [bad(7, challenger=True), bad(8, challenger=False)]
    assert one.report(units) == 2
    assert one.report(units, first_number=1) == 2
    assert other.report(units) == 2
    assert one.report([bad(9, challenger=True)], first_number=9) == 2

    def counted() -> Any:
        answer = mia.call(mia.rollout.GetRollout, pb.GetRolloutRequest(rollout_id=started.rollout_id))
        first_bad = json.loads(answer.case_json)["evidence"]["first_bad"] if answer.case_json else {}
        return first_bad.get("errors")

    assert until(counted) == {"1000": [1, 1]}


def test_a_paused_rollout_stays_and_still_goes_back(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Pausing holds it; evidence against it counts all the same."""
    _, second = two(plane, mia, ben, "paused")
    started = start(mia, "paused", second).rollout
    pause = pb.PauseRolloutRequest(idempotency_key=key(), model="paused", reason="lunch")
    assert [one.paused for one in mia.call(mia.rollout.PauseRollout, pause).rollouts] == [True]
    observer = Observer(plane, started)
    observer.report(clean(spread(400), 1, 1000))
    until(lambda: rollout(mia, started.rollout_id).cause == "paused")
    assert rollout(mia, started.rollout_id).step == 1
    resume = pb.ResumeRolloutRequest(idempotency_key=key(), model="paused")
    mia.call(mia.rollout.ResumeRollout, resume)
    until(lambda: rollout(mia, started.rollout_id).step == 2)
    mia.call(mia.rollout.PauseRollout, pb.PauseRolloutRequest(idempotency_key=key(), model="paused"))
    observer.report([bad(one, challenger=True) for one in range(1, 30)], step=2)
    until(lambda: rollout(mia, started.rollout_id).outcome == "rolled_back")


def test_lost_rows_hold_it(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Nothing is proven by a step of which rows were overwritten unread, until a person says to go on."""
    _, second = two(plane, mia, ben, "lossy")
    started = start(mia, "lossy", second).rollout
    observer = Observer(plane, started)
    observer.report(clean(spread(400), 1, 1000), rows_lost=5)
    until(lambda: "5 journal rows" in rollout(mia, started.rollout_id).reason)
    assert rollout(mia, started.rollout_id).step == 1


def test_a_broken_draw_holds_everything(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Half of the entities in an arm of a tenth: no evidence means anything."""
    _, second = two(plane, mia, ben, "skewed")
    started = start(mia, "skewed", second).rollout
    units = clean(spread(400), 1, 1000)
    for index, unit in enumerate(units):
        unit.challenger = index % 2 == 0
    Observer(plane, started).report(units)
    found = until(lambda: one if (one := rollout(mia, started.rollout_id)).cause == "router" else None)
    assert (found.step, found.needs_person) == (1, True)


@pytest.mark.parametrize(
    ("policy", "key_of_it"),
    [
        ("stepz: []", "stepz"),
        ("steps: [{weight_bps: 0}]", "steps"),
        ("metrics: {errors: {role: gate, advance: {}}}", "metrics.errors.advance"),
        ("maximum_s: -1", "maximum_s"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused_by_its_key(
    plane: ControlPlane, mia: Client, ben: Client, policy: str, key_of_it: str
) -> None:
    """And nothing is started."""
    version = approved(plane, ben, "unread")
    if not status(mia, "unread").champion_version:
        make_champion(mia, ben, "unread", version)
    second = approved(plane, ben, "unread")
    request = pb.StartRolloutRequest(idempotency_key=key(), model="unread", version=second, policy_yaml=policy)
    refused = mia.refused(mia.rollout.StartRollout, request)
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "DOCUMENT_INVALID")
    assert key_of_it in refused.message
    assert not mia.call(mia.rollout.ListRollouts, pb.ListRolloutsRequest(model="unread", ended=True)).rollouts


def test_evidence_survives_a_restart_of_the_control_plane(tmp_path: Path) -> None:
    """What was acknowledged counts, and alpha is not spent again."""
    with running(tmp_path) as plane:
        mia, ben = client_for(plane, "mia", Role.ML_ENGINEER), client_for(plane, "ben", Role.APPROVER)
        _, second = two(plane, mia, ben, "kept")
        started = start(mia, "kept", second).rollout
        Observer(plane, started).report([bad(one, challenger=True) for one in range(1, 3)])
    with running(tmp_path) as plane:
        mia = client_for(plane, "mia", Role.ML_ENGINEER)

        def counted() -> Any:
            answer = mia.call(mia.rollout.GetRollout, pb.GetRolloutRequest(rollout_id=started.rollout_id))
            return json.loads(answer.case_json)["evidence"]["first_bad"] if answer.case_json else None

        assert until(counted)["errors"] == {"1000": [2, 0]}


def test_a_version_in_a_shadow_of_its_own_is_not_rolled_out_beside_it(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The refusal says how the shadow is ended, and then the rollout starts."""
    _, second = two(plane, mia, ben, "shaded")
    start(mia, "shaded", second, policy="", shadow_only=True)
    request = pb.StartRolloutRequest(idempotency_key=key(), model="shaded", version=second, policy_yaml=FAST)
    refused = mia.refused(mia.rollout.StartRollout, request)
    assert refused.reason == "ROLLOUT_REFUSED"
    assert f"interlock rollout rollback shaded --version {second}" in refused.message
    ended = pb.RollBackRolloutRequest(idempotency_key=key(), model="shaded", version=second, reason="seen enough")
    mia.call(mia.rollout.RollBackRollout, ended)
    assert start(mia, "shaded", second).rollout.phase == "canary"


def test_rows_that_were_lost_are_forgiven_by_a_person(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The sentence says how; from then on the step goes by what comes."""
    _, second = two(plane, mia, ben, "forgiven")
    started = start(mia, "forgiven", second).rollout
    observer = Observer(plane, started)
    observer.report(clean(spread(400), 1, 1000), rows_lost=5)
    held = until(lambda: one if "journal rows" in (one := rollout(mia, started.rollout_id)).reason else None)
    assert "interlock rollout resume" in held.reason
    assert held.needs_person
    mia.call(mia.rollout.PauseRollout, pb.PauseRolloutRequest(idempotency_key=key(), model="forgiven"))
    mia.call(mia.rollout.ResumeRollout, pb.ResumeRolloutRequest(idempotency_key=key(), model="forgiven"))
    until(lambda: rollout(mia, started.rollout_id).step == 2)


def test_a_rollout_that_cannot_be_judged_keeps_no_other_from_its_verdict(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The older one has a row that nobody can read; the younger one goes back all the same."""
    _, second = two(plane, mia, ben, "unreadable")
    older = start(mia, "unreadable", second).rollout
    Observer(plane, older).report()
    of_it = evidence_heads.c.rollout_id == older.rollout_id
    with plane.store.unit("a test") as unit:
        unit.execute_unaudited(update(evidence_heads).where(of_it).values(shadow_json="no JSON"))
    try:
        _, other = two(plane, mia, ben, "readable")
        younger = start(mia, "readable", other).rollout
        Observer(plane, younger).report([bad(one, challenger=True) for one in range(1, 30)])
        until(lambda: rollout(mia, younger.rollout_id).outcome == "rolled_back")
    finally:
        with plane.store.unit("a test") as unit:
            unit.execute_unaudited(update(evidence_heads).where(of_it).values(shadow_json="{}"))


def test_reports_that_come_at_once_are_all_counted(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Thousands of units of several gateways, some of them told by two: each once, in the store and in the sums."""
    _, second = two(plane, mia, ben, "crowded")
    started = start(mia, "crowded", second).rollout
    entities = [clean(spread(2_000, 1_500 * place), 1, 1000) for place in range(3)]
    for unit in (unit for units in entities for unit in units):
        unit.bad, unit.challenger = 1, unit.entity_hash % 10_000 < 1_000
    observers = [Observer(plane, started, f"g{place}") for place in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(Observer.report, observers, entities)) == [2_000] * 3
    distinct = {unit.entity_hash: unit.challenger for units in entities for unit in units}
    with plane.store.read() as connection:
        kept = {int(row.unit, 16): row.challenger for row in all_units(connection, started.rollout_id)}
    assert kept.keys() == distinct.keys()

    def assigned() -> Any:
        answer = mia.call(mia.rollout.GetRollout, pb.GetRolloutRequest(rollout_id=started.rollout_id))
        return json.loads(answer.case_json)["evidence"]["assigned"] if answer.case_json else {}

    expected = sum(map(bool, kept.values()))
    until(lambda: assigned().get("1000") == [expected, len(kept) - expected])
