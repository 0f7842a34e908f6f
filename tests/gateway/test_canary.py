"""A canary on the request path: who is assigned to it, who answers where it fails, and what the journal keeps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.v1 import data_plane_pb2 as wire
from gateway.assignment import Snapshot, challenger_time
from gateway.contract.document import ModelDocument
from gateway.contract.routing import is_challenger
from gateway.derivation import Trying, derive_snapshot
from gateway.evidence.count import ERRORS, FIRST_BAD, FIRST_ROW, REJECTED, Counter
from gateway.features.store import OnlineStore
from gateway.features.writer import OnlineWriter
from gateway.journal import ROLLOUT_FOLLOWS, ROLLOUT_REPEATED, ROLLOUT_STANDS_IN, Block, JournalWriter
from gateway.journal_reader import JournalReader
from gateway.pipeline import Pipeline
from gateway.request import Arm
from gateway.run import Attempts
from gateway.servable import Servable, load
from gateway.transport import Call, Reply
from gateway.v1 import inference_pb2 as oip
from gateway.v1 import scoring_pb2 as pb
from gateway.wire.routes import RouteTable, parse_routes
from tests.gateway import tiny

SCORE = "/gateway.v1.ScoringService/Score"
BATCH = "/gateway.v1.ScoringService/ScoreBatch"
INFER = "/inference.GRPCInferenceService/ModelInfer"
GOOD = [f"S{index}" for index in range(200)]
"""Subscribers with 10 minutes."""
TRAPS = [f"T{index}" for index in range(200)]
"""Subscribers with 20, on whom versions break that do."""


class Bench:
    """A pipeline with a control, which is version 1, and a challenger, which is version 2."""

    def __init__(self, data: Path, breaks: str = "", weight_bps: int = 5_000, **more: Any) -> None:
        control, challenger = tiny.version(1), tiny.version(2, breaks)
        artifacts = data / "artifacts"
        artifacts.mkdir()
        for version in (control, challenger):
            for digest, content in version.artifacts().items():
                (artifacts / digest).write_bytes(content)
        writer = OnlineWriter(data / "features", 1 << 26)
        writer.apply(tiny.batch(1, GOOD, minutes=10.0), tiny.HISTORY)
        writer.apply(tiny.batch(2, TRAPS, minutes=20.0), tiny.HISTORY)
        writer.close()
        self.pipeline = Pipeline(
            OnlineStore(data / "features"), JournalWriter(data / "journal" / "worker-0", 1 << 22), 1 << 20
        )
        self.reader = JournalReader(data / "journal")
        table = tiny.canary(challenger, control, weight_bps, **more)
        self.table = parse_routes(table.SerializeToString())
        offered = self.table.canaries[tiny.MODEL]
        self.loaded = {one.digest: load(one, artifacts) for one in (offered.control, offered.challenger)}
        self.attempts = Attempts()
        self.serve(self.table)

    def serve(self, table: RouteTable, watched: bool = True) -> Snapshot:
        """Follows a table."""
        trying = Trying({9: self.attempts}, frozenset(), {}, watched)
        self.pipeline.snapshot = derive_snapshot(table, self.loaded, self.pipeline.snapshot, 2, trying)
        return self.pipeline.snapshot

    def score(self, key: str, version: int = 0) -> pb.ScoreResponse:
        """Scores one subscriber."""
        request = pb.ScoreRequest(model=tiny.MODEL, version=version, entities={"subscriber": key})
        reply = self.call(SCORE, request)
        assert reply.code == 0, reply.message
        return pb.ScoreResponse.FromString(reply.body)

    def batch(self, keys: list[str]) -> pb.ScoreBatchResponse:
        """Scores many in one call."""
        columns = [pb.EntityColumn(entity="subscriber", keys=keys)]
        reply = self.call(BATCH, pb.ScoreBatchRequest(model=tiny.MODEL, entities=columns))
        assert reply.code == 0, reply.message
        return pb.ScoreBatchResponse.FromString(reply.body)

    def call(self, method: str, message: Any) -> Reply:
        """Processes one call."""
        return self.pipeline.process([Call(method, message.SerializeToString(), time.monotonic_ns() + 10**12)])[0]

    def blocks(self) -> list[Block]:
        """What was journalled since the last look."""
        return list(self.reader.poll())


def to_challenger(key: str, weight_bps: int = 5_000) -> bool:
    """Who the subscriber is assigned to."""
    return is_challenger(b"salt", key.encode(), weight_bps)


def infer(keys: list[str], version: str = "") -> oip.ModelInferRequest:
    """An Open Inference Protocol call by entity."""
    return oip.ModelInferRequest(
        model_name=tiny.MODEL,
        model_version=version,
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name="entity_id",
                datatype="BYTES",
                shape=[len(keys)],
                contents=oip.InferTensorContents(bytes_contents=[key.encode() for key in keys]),
            )
        ],
    )


def test_each_entity_goes_to_its_arm_and_stays_there(tmp_path: Path) -> None:
    """By the salted hash, alone and in a batch; the version that answers is the arm's."""
    bench = Bench(tmp_path)
    expected = [to_challenger(key) for key in GOOD]
    assert 60 < sum(expected) < 140
    alone = [bench.score(key) for key in GOOD]
    assert [reply.arm == pb.ARM_CHALLENGER for reply in alone] == expected
    assert [reply.score for reply in alone] == [12.0 if challenger else 11.0 for challenger in expected]
    together = bench.batch(GOOD)
    assert list(together.versions) == [2 if challenger else 1 for challenger in expected]
    assert list(together.scores) == [reply.score for reply in alone]
    assert [arm == pb.ARM_CHALLENGER for arm in together.arms] == expected


def test_the_journal_says_what_the_evidence_needs(tmp_path: Path) -> None:
    """Rollout, step, weight in force and arm, on the rows of both arms; the ids of a divided batch are its rows'."""
    bench = Bench(tmp_path)
    reply = bench.batch(GOOD)
    blocks = bench.blocks()
    assert [(block.rollout_id, block.step, block.version) for block in blocks] == [(9, 1, 1), (9, 1, 2)]
    assert {int(weight) for block in blocks for weight in block.rows["weight_bps"]} == {5_000}
    ids = {f"{block.prefix}{block.first_row + row:012x}" for block in blocks for row in range(len(block.rows))}
    assert ids == set(reply.prediction_ids)
    scores = {
        f"{block.prefix}{block.first_row + row:012x}": float(block.rows["score"][row])
        for block in blocks
        for row in range(len(block.rows))
    }
    assert [scores[one] for one in reply.prediction_ids] == list(reply.scores)


@pytest.mark.parametrize("breaks", ["raising", "nan"])
def test_where_the_challenger_fails_the_control_answers(tmp_path: Path, breaks: str) -> None:
    """The caller gets the control's score; the journal has the failed attempt and the answer that stood in."""
    bench = Bench(tmp_path, breaks, 10_000)
    reply = bench.batch([*GOOD[:3], *TRAPS[:2]])
    assert not reply.errors
    assert list(reply.versions) == [2, 2, 2, 1, 1]
    assert list(reply.scores) == [12.0, 12.0, 12.0, 21.0, 21.0]
    assert set(reply.arms) == {pb.ARM_CHALLENGER}
    attempt, stand_in = bench.blocks()
    assert (attempt.version, stand_in.version) == (2, 1)
    assert attempt.rows["rollout_flags"].tolist() == [0, 0, 0, ROLLOUT_REPEATED, ROLLOUT_REPEATED]
    assert np.count_nonzero(attempt.rows["reason"]) == 2
    assert attempt.rows["answered_by"].tolist() == [2, 2, 2, 0, 0]
    assert stand_in.rows["rollout_flags"].tolist() == [ROLLOUT_STANDS_IN] * 2
    assert stand_in.rows["answered_by"].tolist() == [Arm.CHAMPION] * 2
    assert stand_in.rows["arm"].tolist() == [Arm.CHALLENGER] * 2


def test_three_failed_runs_in_a_row_end_it_on_this_worker(tmp_path: Path) -> None:
    """No statistics: the fourth subscriber goes to the champion, as one that no rollout has assigned."""
    bench = Bench(tmp_path, "raising", 10_000)
    for key in TRAPS[:2]:
        bench.score(key)
    assert bench.score(GOOD[0]).version == 2  # one that succeeds begins the count anew
    arms = [bench.score(key).arm for key in TRAPS[:5]]
    assert arms == [pb.ARM_CHALLENGER] * 3 + [pb.ARM_CHAMPION] * 2
    assert "MODEL_FAILED" in bench.attempts.give_up
    assert bench.blocks()[-1].rollout_id == 0
    bench.serve(bench.table)
    assert bench.score(TRAPS[0]).arm == pb.ARM_CHAMPION


def test_a_promoted_version_that_is_given_up_is_stood_in_for_at_once(tmp_path: Path) -> None:
    """It is the champion by the table: until the gateway has withdrawn it, the former one answers in its place."""
    bench = Bench(tmp_path, "raising", 9_800)
    promoted = bench.table._replace(champions={tiny.MODEL: bench.table.canaries[tiny.MODEL].challenger})
    bench.serve(promoted)
    for key in [key for key in TRAPS if to_challenger(key, 9_800)][:3]:
        bench.score(key)
    assert bench.attempts.give_up
    assert bench.score(TRAPS[0]).score == 21.0
    bench.serve(promoted)
    assert bench.score(TRAPS[0]).score == 21.0


def test_a_call_that_the_challenger_refuses_is_evidence_of_its_entity_and_no_reason_to_give_up(tmp_path: Path) -> None:
    """It wants an input that callers do not send: however often an entity calls, it is one bad unit."""
    bench = Bench(tmp_path, weight_bps=10_000)
    challenger = bench.loaded[bench.table.canaries[tiny.MODEL].challenger.digest]
    wanted = {"request": "amount", "type": "float32", "feeds": "z"}
    facts = challenger.document.model_dump(mode="json", exclude_defaults=True)
    challenger.document = ModelDocument.model_validate({**facts, "inputs": [*facts["inputs"], wanted]})
    challenger.requested = challenger.document.requested
    for _ in range(5):
        assert bench.score(GOOD[0]).score == 11.0
    assert not bench.attempts.give_up
    counter = Counter(bench.table.canaries[tiny.MODEL])
    told = [unit for block in bench.blocks() for unit in counter.take(block)]
    assert [(unit.kind, unit.bad) for unit in told] == [(FIRST_ROW, REJECTED), (FIRST_BAD, REJECTED)]
    assert told[0].entity_hash


@pytest.mark.parametrize(
    ("left_ms", "slow_ms", "expected_ms"),
    [
        (1_000, 2, 250),  # a quarter: three in a row leave those who wait behind two fifths of their time
        (20, 8, 11),  # all but what the control needs, where that is much of it
        (1_000, 200, 400),  # twice what the control needs, so that no challenger like it is too slow
        (16, 8, 0),  # less than the control needs itself proves nothing
        (1, 0, 0),
        (-5, 0, 0),
    ],
)
def test_a_challenger_has_a_part_of_the_time_that_is_left(left_ms: int, slow_ms: int, expected_ms: int) -> None:
    """Neither the call nor those behind it are late because of it, and one as fast as the control has enough."""
    assert challenger_time(left_ms * 1_000_000, slow_ms * 1_000_000) == expected_ms * 1_000_000


def test_a_call_without_time_for_a_challenger_is_not_drawn_for(tmp_path: Path) -> None:
    """Whichever arm it would have had, it is no evidence: else only one arm's would be left out."""
    bench = Bench(tmp_path)
    bench.loaded[bench.table.canaries[tiny.MODEL].control.digest].slow_ns = 10**13
    for key in GOOD[:20]:
        assert bench.score(key).score == 11.0
    assert {block.rollout_id for block in bench.blocks()} == {0}
    assert not bench.attempts.failed


def test_a_control_slower_than_a_challenger_may_be_counts_alike(tmp_path: Path) -> None:
    """One measure for both arms, or two equal versions would look different."""
    bench = Bench(tmp_path)
    control = bench.loaded[bench.table.canaries[tiny.MODEL].control.digest]
    answer = control.run

    def slowly(*given: Any) -> Any:
        now_ns = time.monotonic_ns()
        while time.monotonic_ns() < now_ns + 120_000_000:
            pass
        return answer(*given)

    control.run = slowly  # type: ignore[method-assign]  # no graph takes a time that a test can name
    key = next(key for key in GOOD if not to_challenger(key))
    request = pb.ScoreRequest(model=tiny.MODEL, entities={"subscriber": key})
    reply = bench.pipeline.process([Call(SCORE, request.SerializeToString(), time.monotonic_ns() + 400_000_000)])[0]
    assert pb.ScoreResponse.FromString(reply.body).score == 11.0
    told = [unit for block in bench.blocks() for unit in Counter(bench.table.canaries[tiny.MODEL]).take(block)]
    assert [(unit.kind, unit.bad, unit.challenger) for unit in told] == [
        (FIRST_ROW, ERRORS, False),
        (FIRST_BAD, ERRORS, False),
    ]


def test_a_row_that_both_fail_on_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """The control cannot answer it either: the caller is told so, and the challenger goes on."""
    bench = Bench(tmp_path, "raising", 10_000)
    table = bench.table
    both = table.canaries[tiny.MODEL]._replace(control=both_broken(bench, tmp_path))
    bench.serve(table._replace(canaries={tiny.MODEL: both}))
    for key in TRAPS[:5]:
        request = pb.ScoreRequest(model=tiny.MODEL, entities={"subscriber": key})
        assert "the model failed" in bench.call(SCORE, request).message
    assert not bench.attempts.give_up


def both_broken(bench: Bench, data: Path) -> Any:
    """A control that breaks where the challenger does."""
    version = tiny.version(3, "raising")
    for digest, content in version.artifacts().items():
        (data / "artifacts" / digest).write_bytes(content)
    message = wire.RouteTable.FromString(tiny.table(1, version).SerializeToString())
    served = parse_routes(message.SerializeToString()).champions[tiny.MODEL]
    bench.loaded[served.digest] = load(served, data / "artifacts")
    return served


def test_a_call_with_one_version_for_all_its_rows_has_one_arm(tmp_path: Path) -> None:
    """The Open Inference Protocol names one version: the first row decides, and the others are no evidence."""
    bench = Bench(tmp_path)
    challenger = next(key for key in GOOD if to_challenger(key))
    control = next(key for key in GOOD if not to_challenger(key))
    for keys, version in (([challenger, control], "2"), ([control, challenger], "1")):
        reply = oip.ModelInferResponse.FromString(bench.call(INFER, infer(keys)).body)
        assert reply.model_version == version
        assert bench.blocks()[-1].rows["rollout_flags"].tolist() == [0, ROLLOUT_FOLLOWS]


def test_where_one_row_of_such_a_call_fails_the_control_answers_all(tmp_path: Path) -> None:
    """One reply, one version."""
    bench = Bench(tmp_path, "raising", 10_000)
    reply = oip.ModelInferResponse.FromString(bench.call(INFER, infer([GOOD[0], TRAPS[0]])).body)
    assert reply.model_version == "1"
    assert np.frombuffer(reply.raw_output_contents[0], "<f4").tolist() == [11.0, 21.0]


def test_a_version_that_is_named_is_never_evidence(tmp_path: Path) -> None:
    """By number, and by the labels `champion` and `canary`."""
    bench = Bench(tmp_path)
    assert [bench.score(GOOD[0], version).version for version in (1, 2)] == [1, 2]
    for label, version in (("champion", "1"), ("canary", "2")):
        reply = oip.ModelInferResponse.FromString(bench.call(INFER, infer(GOOD[:1], label)).body)
        assert reply.model_version == version
        assert reply.parameters["interlock_arm"].string_param == "pinned"
    assert {block.rollout_id for block in bench.blocks()} == {0}


def test_nothing_is_tried_unwatched(tmp_path: Path) -> None:
    """Without a sign of life from the observer the champion has all traffic, and the table counts as followed."""
    bench = Bench(tmp_path, weight_bps=10_000)
    snapshot = bench.serve(bench.table, watched=False)
    assert bench.score(GOOD[0]).arm == pb.ARM_CHAMPION
    assert snapshot.revision == 10
    assert bench.serve(bench.table).routes[tiny.MODEL].canary is not None


def test_a_gateway_without_the_challenger_leaves_its_entities_out(tmp_path: Path) -> None:
    """Until it is loaded the champion answers, the rows are no evidence, and the revision is not yet in force."""
    bench = Bench(tmp_path, weight_bps=10_000)
    challenger = bench.table.canaries[tiny.MODEL].challenger.digest
    loaded, bench.loaded = bench.loaded, {d: s for d, s in bench.loaded.items() if d != challenger}
    bench.pipeline.snapshot = bench.pipeline.snapshot._replace(revision=0)
    assert bench.serve(bench.table).revision == 0
    assert bench.score(GOOD[0]).version == 1
    assert bench.blocks()[-1].rollout_id == 0
    bench.loaded = loaded
    assert bench.serve(bench.table).revision == 10


def test_raw_tensors_are_drawn_a_call_at_a_time(tmp_path: Path) -> None:
    """No entity, so a journalled draw: about half of 400 calls at 50 %."""
    bench = Bench(tmp_path)
    request = oip.ModelInferRequest(
        model_name=tiny.MODEL,
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name="x", datatype="FP32", shape=[1, 1], contents=oip.InferTensorContents(fp32_contents=[1.0])
            )
        ],
    )
    versions = [oip.ModelInferResponse.FromString(bench.call(INFER, request).body).model_version for _ in range(400)]
    assert 120 < versions.count("2") < 280
    blocks = bench.blocks()
    assert {int(block.rows["entity_hash"][0]) for block in blocks} == {0}
    assert {block.rollout_id for block in blocks} == {9}


def test_the_holdback_is_the_former_champion(tmp_path: Path) -> None:
    """After promotion the challenger is the champion: the label says so, the control answers its share."""
    bench = Bench(tmp_path, weight_bps=9_800)
    canary = bench.table.canaries[tiny.MODEL]
    snapshot = bench.serve(bench.table._replace(champions={tiny.MODEL: canary.challenger}))
    servable: Servable = snapshot.routes[tiny.MODEL].servable
    assert servable.served.version == 2
    reply = oip.ModelInferResponse.FromString(bench.call(INFER, infer(GOOD[:1], "champion")).body)
    assert reply.model_version == "2"
    held = [key for key in (*GOOD, *TRAPS) if not to_challenger(key, 9_800)]
    assert held
    assert {bench.score(key).version for key in held} == {1}
