"""Stopped models, over the wire of a real gateway: an error with a reason, or the declared fallback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from control.v1 import data_plane_pb2 as wire
from gateway.contract.document import Fallback, ModelDocument
from gateway.journal import ROW
from gateway.journal_reader import JournalReader
from gateway.request import Mark
from gateway.v1 import scoring_pb2, scoring_pb2_grpc
from tests.gateway.fake_control import FakeControl
from tests.gateway.gateways import Gateway, gateway
from tests.gateway.tiny import DOCUMENT, MODEL, batch, table, version
from tests.support import until

DECLARED = DOCUMENT.model_copy(update={"fallback": Fallback(score=0.25)})


def message(revision: int, document: ModelDocument, because: str | None = None) -> wire.RouteTable:
    """A table of one model, stopped or not."""
    found = table(revision, version(1))
    found.models[0].champion.document_json = document.canonical()
    if because is not None:
        found.models[0].stopped_because = because
    return found


@pytest.fixture(scope="module")
def control() -> Iterator[FakeControl]:
    """A control plane that runs."""
    with FakeControl() as running:
        running.artifacts.update(version(1).artifacts())
        running.append(batch(1, ["S1"]))
        running.publish(message(7, DOCUMENT))
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, control: FakeControl) -> Iterator[Gateway]:
    """A gateway that follows it."""
    with gateway(tmp_path_factory.mktemp("stopping") / "g", control=control.address) as found:
        until(found.ready)
        yield found


def reason(call: Any) -> str:
    """Why a call fails; empty where it does not."""
    try:
        call()
    except grpc.RpcError as error:
        raw = dict(error.trailing_metadata())["grpc-status-details-bin"]  # type: ignore[attr-defined]  # a Call too
        info = error_details_pb2.ErrorInfo()
        status_pb2.Status.FromString(raw).details[0].Unpack(info)
        return f"{error.code().name} {info.reason}"  # type: ignore[attr-defined]  # likewise
    return ""


def test_a_stopped_model_answers_nobody_until_it_is_started(running: Gateway, control: FakeControl) -> None:
    """FAILED_PRECONDITION with the reason; the version stays loaded, and answers at once when it is started."""
    control.publish(message(20, DOCUMENT, "it errs"))
    until(lambda: reason(running.score) == "FAILED_PRECONDITION MODEL_STOPPED")
    until(lambda: control.confirmed(20))
    assert running.ready()
    control.publish(message(21, DOCUMENT))
    until(lambda: control.confirmed(21))
    assert running.score().score == 11.0


def test_a_declared_fallback_is_answered_and_marked(running: Gateway, control: FakeControl) -> None:
    """One by one and in batches, by no version and no arm, and so it stands in the journal; a wrong call is refused."""
    control.publish(message(30, DECLARED, ""))
    until(lambda: control.confirmed(30))
    answer = running.score()
    assert (answer.score, answer.version, answer.revision) == (0.25, 0, 30)
    assert (list(answer.flags), answer.arm) == ([scoring_pb2.FLAG_FALLBACK], scoring_pb2.ARM_UNSPECIFIED)
    with running.channel() as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        request = scoring_pb2.ScoreBatchRequest(model=MODEL)
        request.entities.add(entity="subscriber", keys=["S1", "S2"])
        batch = stub.ScoreBatch(request, timeout=10)
        assert (list(batch.scores), [list(row.flags) for row in batch.flags]) == (
            [0.25] * 2,
            [[scoring_pb2.FLAG_FALLBACK]] * 2,
        )
        wrong = scoring_pb2.ScoreRequest(model=MODEL, entities={"customer": "S1"})
        assert reason(lambda: stub.Score(wrong, timeout=10)) == "INVALID_ARGUMENT ENTITY_MISMATCH"
    blocks = [block for block in JournalReader(running.data / "journal").poll() if block.revision == 30]
    flags = [row["flags"] for block in blocks for row in block.rows if block.model]
    assert ROW["flags"] == "u1"
    assert flags == [Mark.FALLBACK] * 3


def test_the_versions_that_callers_name_are_told_upward(running: Gateway, control: FakeControl) -> None:
    """So that nobody retires what somebody asks for; calls that leave the choice to the route do not count."""
    control.publish(message(40, DOCUMENT))
    until(lambda: control.confirmed(40))
    running.score()
    assert not control.reports[-1].pinned
    with running.channel() as channel:
        pinned = scoring_pb2.ScoreRequest(model=MODEL, version=1, entities={"subscriber": "S1"})
        scoring_pb2_grpc.ScoringServiceStub(channel).Score(pinned, timeout=10)
    (told,) = until(lambda: control.reports[-1].pinned)
    assert (told.model, told.version, told.last_ns % 60_000_000_000, told.last_ns > 0) == (MODEL, 1, 0, True)


def test_a_model_that_never_loads_can_be_stopped(tmp_path: Path) -> None:
    """It may be the loading that harms: a stopped model is not loaded by a worker that begins."""
    with FakeControl() as control:
        found = message(5, DECLARED, "it kills workers")
        found.models[0].champion.model_sha256 = found.models[0].champion.golden_sha256
        control.artifacts.update(version(1).artifacts())
        control.publish(found)
        with gateway(tmp_path / "g", control=control.address) as running:
            until(running.ready)
            until(lambda: control.confirmed(5))
            assert running.score().score == 0.25
            assert not control.reports[-1].problems


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"fallback": {"score": 0.1, "decision": "call"}}, "must be left out"),
        (
            {
                "task": "multiclass",
                "output": {"score": "y", "labels": ["a", "b"]},
                "decision": {"kind": "argmax"},
                "fallback": {"score": 0.1},
            },
            "must be one of a, b",
        ),
        (
            {"task": "ranking", "output": {"score": "y", "labels": ["a", "b"]}, "fallback": {"score": 1}},
            "a ranking model has none",
        ),
    ],
)
def test_a_fallback_that_the_model_could_not_answer_is_refused(changed: dict[str, Any], says: str) -> None:
    """Callers get only what the model might have said."""
    with pytest.raises(ValueError, match=says):
        ModelDocument.model_validate({**DOCUMENT.model_dump(), **changed})
