"""Stepping back alone: the pure rules, the file, and a gateway that loses its control plane."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from control.v1 import data_plane_pb2 as wire
from gateway.contract.errors import Fault
from gateway.stepback import Kind, Withdrawal, acknowledged, choose, effective, settled
from gateway.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, scoring_pb2
from gateway.wire.routes import RouteTable, parse_routes
from gateway.withdrawals import Withdrawals
from tests.gateway import tiny
from tests.gateway.fake_control import FakeControl
from tests.gateway.gateways import BEARER, Gateway, gateway
from tests.gateway.tiny import HISTORY, MODEL, batch, table, version
from tests.support import until


def message(revision: int, champion: int, *kept: int, champion_revision: int = 0) -> wire.RouteTable:
    """A table of one model."""
    found = table(revision, version(champion))
    found.models[0].champion.champion_revision = champion_revision
    found.models[0].kept.extend(version(number).served() for number in kept)
    return found


def sent(revision: int, champion: int, *kept: int, champion_revision: int = 0) -> RouteTable:
    """The same, read."""
    return parse_routes(message(revision, champion, *kept, champion_revision=champion_revision).SerializeToString())


def withdrawal(number: int, of: int, recorded_by: int = 0, counted_from: int = 0) -> Withdrawal:
    """A withdrawal of a version."""
    digest = version(of).served().digest
    return Withdrawal(
        number, MODEL, of, digest, Kind.MANUAL, "ann", "it errs", 1, HISTORY, 7, recorded_by, counted_from
    )


def answers(found: RouteTable) -> tuple[int, list[int], bool]:
    """Who answers, who is kept, and whether that is stepping back."""
    kept = [served.version for served in found.kept[MODEL]]
    return found.champions[MODEL].version, kept, MODEL in found.stepped_back


def test_the_newest_former_champion_answers_in_a_withdrawn_ones_place() -> None:
    """Withdrawn former champions are passed over, and nothing that is not withdrawn changes."""
    whole = sent(7, 5, 4, 3)
    assert answers(effective(whole, [])) == (5, [4, 3], False)
    assert answers(effective(whole, [withdrawal(1, 5)])) == (4, [3], True)
    assert answers(effective(whole, [withdrawal(1, 5), withdrawal(2, 4)])) == (3, [], True)
    assert answers(effective(whole, [withdrawal(1, 4)])) == (5, [3], False)
    assert effective(whole, [withdrawal(n, n) for n in (3, 4, 5)]).stopped.keys() == {MODEL}


def test_a_former_champion_is_chosen_and_whatever_is_newer_goes() -> None:
    """By default the last one; one that is not kept is refused with what could be."""
    followed = sent(7, 5, 4, 3)
    assert [served.version for served in choose(followed, MODEL, 0).withdrawn] == [5]
    chosen = choose(followed, MODEL, 3)
    assert (chosen.answers.version, [served.version for served in chosen.withdrawn]) == (3, [5, 4])
    with pytest.raises(Fault, match="can go back to 4, 3"):
        choose(followed, MODEL, 1)
    with pytest.raises(Fault, match="model stop"):
        choose(sent(7, 5), MODEL, 0)
    with pytest.raises(Fault, match="no model"):
        choose(followed, "nothing", 0)


def test_a_withdrawal_ends_only_with_a_table_that_takes_it_into_account() -> None:
    """Not before it is recorded, not by an older table, and not while the version is champion as it was."""
    fresh, recorded = withdrawal(1, 5), withdrawal(1, 5, recorded_by=9, counted_from=10)
    assert acknowledged([fresh], {1: (9, 10)}) == (recorded,)
    assert settled([fresh], sent(10, 4)) == (fresh,)
    assert settled([recorded], sent(8, 5)) == (recorded,)
    assert settled([recorded], sent(12, 5, champion_revision=6)) == (recorded,)
    assert settled([recorded], sent(10, 4)) == ()
    assert settled([recorded], sent(12, 5, champion_revision=12)) == ()


def test_what_was_withdrawn_is_tried_again_by_a_rollout_that_began_since() -> None:
    """Also where the withdrawal is recorded only after it began; never by the rollout that it was withdrawn from."""
    late = withdrawal(1, 2, recorded_by=13, counted_from=13)  # withdrawn at revision 7

    def offered(rollout_id: int) -> RouteTable:
        canary = tiny.canary(version(2), version(1), 500)
        canary.revision, canary.models[0].canary.rollout_id = 14, rollout_id
        return parse_routes(canary.SerializeToString())

    assert settled([late], offered(12)) == ()
    assert settled([late], offered(6)) == (late,)
    assert settled([late._replace(history_id="another")], offered(12)) != ()


def test_withdrawals_are_kept_whole_or_refused(tmp_path: Path) -> None:
    """Numbers go up, also over a lost file; a damaged one is named."""
    kept = Withdrawals(tmp_path)
    whole = sent(7, 5, 4)
    (first,) = kept.add(whole, [whole.champions[MODEL]], (Kind.MANUAL, "ann", "it errs"))
    assert kept.add(whole, [whole.champions[MODEL]], (Kind.MANUAL, "bob", "so it does")) == []
    (second,) = kept.add(whole, whole.kept[MODEL], (Kind.MANUAL, "ann", "also"))
    assert Withdrawals(tmp_path).read() == (first, second)
    assert (first.version, first.revision, second.number > first.number) == (5, 7, True)
    kept.path.write_bytes(kept.path.read_bytes().replace(b"it errs", b"it is fine"))
    with pytest.raises(ValueError, match="damaged"):
        kept.read()
    kept.path.unlink()
    assert kept.add(whole, whole.kept[MODEL], (Kind.MANUAL, "ann", "again"))[0].number > first.number


@pytest.fixture
def control() -> Iterator[FakeControl]:
    """A control plane that runs."""
    with FakeControl() as running:
        for number in (3, 4, 5):
            running.artifacts.update(version(number).artifacts())
        running.append(batch(1, ["S1"]))
        running.publish(message(7, 5, 4, 3, champion_revision=7))
        yield running


def step_back(running: Gateway, **asked: Any) -> admin_pb2.StepBackResponse:
    """Asks on the admin port."""
    with running.channel("admin_address") as channel:
        request = admin_pb2.StepBackRequest(model=MODEL, reason="it errs", actor="ann", wait_ms=20_000, **asked)
        return admin_pb2_grpc.AdminServiceStub(channel).StepBack(request, metadata=BEARER, timeout=30)


def said(running: Gateway) -> tuple[int, bool]:
    """Which version answers, and whether it says that the gateway stepped back."""
    answer = running.score()
    return answer.version, scoring_pb2.FLAG_STEPPED_BACK in answer.flags


def oip_flags(running: Gateway) -> str:
    """What the Open Inference Protocol's answer says."""
    request = inference_pb2.ModelInferRequest(model_name=MODEL)
    entity = request.inputs.add(name="entity_id", datatype="BYTES", shape=[1])
    entity.contents.bytes_contents.append(b"S1")
    with running.channel() as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            inference_pb2.ModelInferRequest.SerializeToString,
            inference_pb2.ModelInferResponse.FromString,
        )
        answer = infer(request, timeout=10)
    return str(answer.parameters["interlock_flags"].string_param)


def test_a_gateway_steps_back_alone_and_stays_so_until_the_control_plane_has_recorded_it(
    tmp_path: Path, control: FakeControl
) -> None:
    """Through the loss of the control plane, SIGKILL of the gateway and its restart; a report tells the original."""
    with gateway(tmp_path / "g", control=control.address) as running:
        until(lambda: running.ready() and said(running) == (5, False))
        control.__exit__()
        done = step_back(running)
        assert (done.answers, [one.version for one in done.withdrawn]) == (4, [5])
        assert (done.confirmed, done.pending) == (1, 0)
        assert said(running) == (4, True)
        assert [one.version for one in running.status().withdrawn] == [5]
        assert "stepped_back" in oip_flags(running)
        running.stop(signal.SIGKILL)
    with gateway(tmp_path / "g", control=control.address) as running:
        until(running.ready)
        assert said(running) == (4, True)
        assert step_back(running).answers == 3
        assert said(running) == (3, True)
        control.__enter__()
        first, second = until(lambda: control.reports and control.reports[-1].withdrawals)
        assert (first.version, first.number, first.actor) == (5, done.withdrawn[0].number, "ann")
        assert (first.time_ns, first.history_id, first.revision) == (done.withdrawn[0].time_ns, HISTORY, 7)
        control.acknowledge({first.number: (9, 10), second.number: (11, 12)})
        until(lambda: all(one.acknowledged for one in running.status().withdrawn))
        assert said(running) == (3, True)
        control.publish(message(12, 3, champion_revision=12))
        until(lambda: said(running) == (3, False))
        until(lambda: not running.status().withdrawn)


def test_stepping_back_needs_the_gateways_token_and_a_former_champion(tmp_path: Path, control: FakeControl) -> None:
    """Nothing is written by a refused call."""
    with gateway(tmp_path / "g", control=control.address) as running:
        until(running.ready)
        with running.channel("admin_address") as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            request = admin_pb2.StepBackRequest(model=MODEL, actor="eve")
            with pytest.raises(grpc.RpcError) as refused:
                stub.StepBack(request, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            request = admin_pb2.StepBackRequest(model=MODEL, actor="eve", to_version=2)
            with pytest.raises(grpc.RpcError) as refused:
                stub.StepBack(request, metadata=BEARER, timeout=10)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert not (tmp_path / "g" / "withdrawals").exists()


def test_another_history_is_followed_only_when_an_operator_accepts_it(tmp_path: Path, control: FakeControl) -> None:
    """What serves goes on until then; afterwards routes and features are the new history's, and withdrawals stay."""
    with gateway(tmp_path / "g", control=control.address) as running:
        until(lambda: running.ready() and said(running) == (5, False))
        step_back(running)
        other = message(3, 5, 4, champion_revision=2)
        other.history_id = control.history_id = "history-two"
        control.batches = ()
        control.append(batch(1, ["S1"], minutes=70.0))
        control.publish(other)
        until(lambda: running.status().refused_history_id == "history-two")
        assert running.score().score == pytest.approx(14.0)
        with running.channel("admin_address") as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.AcceptHistory(admin_pb2.AcceptHistoryRequest(history_id="x"), metadata=BEARER, timeout=10)
            assert "offers history history-two" in str(refused.value.details())
            stub.AcceptHistory(admin_pb2.AcceptHistoryRequest(history_id="history-two"), metadata=BEARER, timeout=10)
        until(lambda: running.status().history_id == "history-two")
        until(running.ready)
        assert (said(running), running.score().score) == ((4, True), pytest.approx(74.0))
        assert running.status().refused_history_id == ""
