"""What callers of the scoring service see: a real gateway over gRPC, with a model of every kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from gateway.journal_reader import JournalReader
from gateway.v1 import scoring_pb2 as pb
from gateway.v1 import scoring_pb2_grpc as rpc
from tests.gateway import zoo
from tests.gateway.gateways import Gateway
from tests.support import until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    data = tmp_path_factory.mktemp("zoo") / "gateway"
    data.mkdir()
    zoo.place(data)
    running = Gateway(data, "--max-message-bytes=65536")
    until(running.ready)
    yield running
    running.process.terminate()
    assert running.process.wait(30) == 0


@pytest.fixture(scope="module")
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with gateway.channel() as opened:
        yield opened


@pytest.fixture(scope="module")
def scoring(channel: grpc.Channel) -> Any:
    return rpc.ScoringServiceStub(channel)


def subscriber(model: str, key: str, **more: Any) -> pb.ScoreRequest:
    """Asks for a subscriber's score."""
    return pb.ScoreRequest(model=model, entities={"subscriber": key}, **more)


def with_inputs(model: str, **inputs: Any) -> pb.ScoreRequest:
    """Asks for a score by request-time inputs alone."""
    kinds = {float: "number", int: "integer", str: "text", bool: "flag"}
    return pb.ScoreRequest(model=model, inputs={k: pb.Value(**{kinds[type(v)]: v}) for k, v in inputs.items()})


def batch(model: str, keys: list[str] | None = None, **columns: pb.InputColumn) -> pb.ScoreBatchRequest:
    """Asks for the scores of many rows."""
    entities = [pb.EntityColumn(entity="subscriber", keys=keys)] if keys is not None else []
    return pb.ScoreBatchRequest(model=model, entities=entities, inputs=list(columns.values()))


def test_binary_answers_with_its_score_decision_and_origin(scoring: Any) -> None:
    """The score is the graph's, and the reply says who answered, by which table and from how old features."""
    reply = scoring.Score(subscriber("churn", "S7"))
    assert reply.score == pytest.approx(zoo.churn_score(7, 2, "tx"), abs=1e-6)
    assert reply.decision == ("call" if reply.score >= 0.5 else "leave")
    assert (reply.model, reply.version, reply.revision, reply.arm) == ("churn", 3, 7, pb.ARM_CHAMPION)
    assert len(reply.prediction_id) == 28
    assert (reply.defaulted, list(reply.flags), reply.feature_age_ms) == (0, [], 0)


def test_multiclass_ranks_every_class_and_decides_for_the_best(scoring: Any) -> None:
    """The score is the decided class's probability."""
    reply = scoring.Score(with_inputs("plan", a=0.0, b=math.log(2), c=0.0))
    assert [(item.label, round(item.score, 6)) for item in reply.ranking] == [
        ("plus", 0.5),
        ("basic", 0.25),
        ("max", 0.25),
    ]
    assert (reply.decision, round(reply.score, 6)) == ("plus", 0.5)
    assert not reply.HasField("feature_age_ms")


def test_ranking_takes_two_entities_and_lists_the_top_items(scoring: Any) -> None:
    """Each entity's key finds its own view's row."""
    request = pb.ScoreRequest(model="offer", entities={"subscriber": "S1", "offer": "O2"})
    reply = scoring.Score(request)
    assert [(item.label, item.score) for item in reply.ranking] == [("both", 4.0), ("data", 3.0)]
    assert (reply.decision, reply.score) == ("both", 4.0)


def test_anomaly_without_entities_scores_request_time_inputs(scoring: Any) -> None:
    """An input that is not sent takes its default, and a whole number does for a float32."""
    assert scoring.Score(with_inputs("fraud", amount=16)).score == 4.0
    assert scoring.Score(with_inputs("fraud", amount=16.0, code=2)).score == 400.0
    assert scoring.Score(with_inputs("fraud", amount=16.0)).score == 4.0


def test_regression_takes_every_type_and_nan_where_the_document_allows_it(scoring: Any) -> None:
    """NaN, bool and string reach the graph as they were sent."""
    assert scoring.Score(with_inputs("revenue", amount=math.nan, vip=True, channel="web")).score == 6.0
    assert scoring.Score(with_inputs("revenue", amount=1.0)).score == 0.0


def test_an_unknown_entity_takes_the_defaults_and_says_so(scoring: Any) -> None:
    """All features of the model are counted as defaulted."""
    reply = scoring.Score(subscriber("churn", "nobody"))
    assert reply.score == pytest.approx(zoo.churn_score(1.5, 0, "other"), abs=1e-6)
    assert (reply.defaulted, list(reply.flags)) == (3, [pb.FLAG_ENTITY_UNKNOWN])
    assert not reply.HasField("feature_age_ms")


def test_one_unknown_entity_of_two_is_flagged(scoring: Any) -> None:
    """The other entity's features are used."""
    reply = scoring.Score(pb.ScoreRequest(model="offer", entities={"subscriber": "S1", "offer": "O9"}))
    assert [(item.label, item.score) for item in reply.ranking] == [("both", 8.0), ("data", 7.0)]
    assert (reply.defaulted, list(reply.flags)) == (1, [pb.FLAG_ENTITY_UNKNOWN])


def test_a_stale_feature_takes_its_default_and_is_flagged(scoring: Any) -> None:
    """Only the feature that has a time-to-live is stale; the others of its row are used."""
    reply = scoring.Score(subscriber("churn", "stale"))
    assert reply.score == pytest.approx(zoo.churn_score(1.5, 300 % 5, "ny"), abs=1e-6)
    assert (reply.defaulted, list(reply.flags)) == (1, [pb.FLAG_FEATURES_STALE])
    assert reply.feature_age_ms > 0


def test_a_null_feature_takes_its_default(scoring: Any) -> None:
    """A row of nulls is a known entity all the same."""
    reply = scoring.Score(subscriber("churn", "gone"))
    assert reply.score == pytest.approx(zoo.churn_score(1.5, 0, "other"), abs=1e-6)
    assert (reply.defaulted, list(reply.flags)) == (3, [])


def test_a_batch_answers_each_row_as_a_call_of_its_own_would(scoring: Any) -> None:
    """256 rows, with an unknown and a stale entity among them."""
    keys = [f"S{i}" for i in range(254)] + ["nobody", "stale"]
    reply = scoring.ScoreBatch(batch("churn", keys))
    single = [scoring.Score(subscriber("churn", key)) for key in keys[::16] + keys[-2:]]
    assert [reply.scores[i] for i in (*range(0, 256, 16), 254, 255)] == [one.score for one in single]
    assert reply.decisions[254] == single[-2].decision
    assert list(reply.versions) == [3] * 256
    assert list(reply.arms) == [pb.ARM_CHAMPION] * 256
    assert len(set(reply.prediction_ids)) == 256
    assert list(reply.defaulted) == [0] * 254 + [3, 1]
    assert list(reply.feature_ages_ms[:254]) == [0] * 254
    assert reply.feature_ages_ms[254] == -1
    assert [(item.row, list(item.flags)) for item in reply.flags] == [
        (254, [pb.FLAG_ENTITY_UNKNOWN]),
        (255, [pb.FLAG_FEATURES_STALE]),
    ]
    assert not reply.errors


def test_a_batch_of_a_ranking_model_ranks_each_row(scoring: Any) -> None:
    """Each row has a ranking of its own."""
    columns = [
        pb.EntityColumn(entity="subscriber", keys=["S1", "S9"]),
        pb.EntityColumn(entity="offer", keys=["O1", "O1"]),
    ]
    reply = scoring.ScoreBatch(pb.ScoreBatchRequest(model="offer", entities=columns))
    assert [[item.label for item in row.ranking] for row in reply.rankings] == [["both", "data"], ["both", "sms"]]


def test_a_poisoned_row_fails_alone(scoring: Any) -> None:
    """The run is repeated row by row: the row on which the model raises, and the one that gives NaN, have codes."""
    amounts = pb.InputColumn(name="amount", numbers=[4, 9, -1, 16])
    codes = pb.InputColumn(name="code", integers=[0, 99, 0, 1])
    reply = scoring.ScoreBatch(batch("fraud", amount=amounts, code=codes))
    assert [reply.scores[0], reply.scores[3]] == [2.0, 40.0]
    assert math.isnan(reply.scores[1])
    assert math.isnan(reply.scores[2])
    assert list(reply.versions) == [3, 0, 0, 3]
    found = [(error.row, error.reason, grpc.StatusCode.INTERNAL.value[0] == error.code) for error in reply.errors]
    assert found == [(1, "MODEL_FAILED", True), (2, "SCORE_NOT_FINITE", True)]


def test_rows_of_a_batch_that_are_wrong_have_their_own_codes(scoring: Any) -> None:
    """An empty key, a key that is too long and a NaN that is refused leave the other rows alone."""
    reply = scoring.ScoreBatch(batch("churn", ["S1", "", "x" * 257]))
    assert [(error.row, error.reason) for error in reply.errors] == [(1, "ENTITY_MISMATCH"), (2, "ENTITY_MISMATCH")]
    assert not math.isnan(reply.scores[0])
    amounts = pb.InputColumn(name="amount", numbers=[4, math.nan, 1e300])
    reply = scoring.ScoreBatch(batch("fraud", amount=amounts))
    assert [(error.row, error.reason) for error in reply.errors] == [(1, "INPUT_NOT_FINITE"), (2, "INPUT_NOT_FINITE")]
    reply = scoring.ScoreBatch(batch("strict", ["S0", "nobody", "gone"]))
    assert [(error.row, error.reason) for error in reply.errors] == [(1, "FEATURE_MISSING"), (2, "FEATURE_MISSING")]


def test_a_version_that_is_named_is_pinned(scoring: Any) -> None:
    """A pinned call is no evidence, so it has an arm of its own."""
    assert scoring.Score(subscriber("churn", "S1", version=3)).arm == pb.ARM_PINNED


def test_every_row_is_journalled_with_what_it_was_answered(gateway: Gateway, scoring: Any) -> None:
    """The row of a prediction id has its score, its features as stored, and the reason of a failure."""
    good = scoring.Score(subscriber("churn", "S11"))
    with pytest.raises(grpc.RpcError):
        scoring.Score(with_inputs("fraud", amount=-1.0))
    blocks = list(JournalReader(gateway.data / "journal").poll())
    prefix, number = good.prediction_id[:16], int(good.prediction_id[16:], 16)
    block = next(b for b in blocks if b.prefix == prefix and b.first_row <= number < b.first_row + len(b.rows))
    row = block.rows[number - block.first_row]
    assert (block.model, block.version, block.revision, block.feature_sequence) == ("churn", 3, 7, 2)
    assert (row["score"], row["arm"], row["answered_by"], row["reason"]) == (good.score, 1, 1, 0)
    stored = zoo.RowCodec(zoo.USAGE).decode([block.payload[0]]).rows[0]
    assert stored["float32"][0] == 11.0
    assert blocks[-1].model == "fraud"
    assert blocks[-1].rows[-1]["reason"] > 0


def error_info(error: Any) -> ErrorInfo:
    """The ErrorInfo of a failed call."""
    trailers = dict(error.trailing_metadata())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def assert_fault(error: Any, code: grpc.StatusCode, reason: str) -> None:
    """Holds a failed call against the catalogue."""
    info = error_info(error)
    assert (error.code(), info.reason, info.domain) == (code, reason, "interlock")
