"""Labels judge a version that answers fast and without an error: what callers report rolls it back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gateway.contract.document import ModelDocument
from gateway.v1 import scoring_pb2 as pb
from gateway.v1 import scoring_pb2_grpc as rpc
from tests.e2e.installation import GOOD, Caller, Installation
from tests.gateway import tiny
from tests.support import until

POLICY = """
shadow: null
steps: [{weight_bps: 5000, minimum_s: 0}]
metrics:
  latency: null
  decisions: null
  labels: {error_above: 0.5}
maximum_s: 3600
"""
RECORDING = ("--recorder=true", "--lake-flush-ms=200")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    """An installation whose first version answers; its gateways and its control plane share a lake."""
    here = Installation(tmp_path)
    fields = tiny.DOCUMENT.model_dump(mode="json") | {"outcome": {"label": "minutes_later", "window_days": 1}}
    here.document = ModelDocument.model_validate(fields)
    with here.control(lake=tmp_path / "lake"):
        here.materialize()
        here.promote_first()
        yield here


def report(caller: Caller, replies: Sequence[pb.ScoreResponse], truth: float) -> None:
    """Tells what came to pass after the predictions."""
    rows = [
        pb.Outcome(id=one.prediction_id, prediction_id=one.prediction_id, event_time_ns=time.time_ns(), number=truth)
        for one in replies
    ]
    with caller.gateway.channel() as channel:
        answer = rpc.ScoringServiceStub(channel).RecordOutcomes(pb.RecordOutcomesRequest(outcomes=rows), timeout=10)
    assert answer.recorded == len(rows)


def test_a_version_that_is_wrong_is_rolled_back_by_what_callers_report(here: Installation) -> None:
    """No call fails and none is slow; the labels say that the control is right and the challenger is not."""
    with here.gateway("gateway", *RECORDING, f"--lake={here.place / 'lake'}") as caller:
        started = here.start(here.register(), POLICY)
        replies = caller.scores(GOOD[:120])
        assert {reply.score for reply in replies} == {11.0, 12.0}
        report(caller, replies, truth=11.0)
        over = until(lambda: found if (found := here.rollout(started.rollout_id)).outcome else None, 150)
    assert over.outcome == "rolled_back"
    assert "labels" in over.reason


def mirrored(caller: Caller, rollout_id: int) -> bool:
    """Whether the mirror has begun: it loads a shadow in its own time, and rows before that are not for it."""
    shadows = caller.gateway.board("mirror").get("shadows", {})
    return bool(shadows.get(str(rollout_id), {}).get("pairs"))


def test_a_shadow_that_is_wrong_is_rolled_back_before_a_caller_gets_its_answer(here: Installation) -> None:
    """Its answers to mirrored rows are held against the labels of what callers got."""
    policy = POLICY.replace("shadow: null", "shadow: {pairs: 100000, max_flip_rate: 1}")
    with here.gateway("gateway", *RECORDING, f"--lake={here.place / 'lake'}", "--mirror-niceness=0") as caller:
        started = here.start(here.register(), policy)
        until(lambda: caller.score(GOOD[-1]) and mirrored(caller, started.rollout_id), 120)
        replies = caller.scores(GOOD[:100])
        assert {reply.score for reply in replies} == {11.0}
        report(caller, replies, truth=11.0)
        over = until(lambda: found if (found := here.rollout(started.rollout_id)).outcome else None, 150)
    assert over.outcome == "rolled_back"
    assert "labels" in over.reason
