"""The request path from bytes to bytes, without a socket: what depends on time, on batches and on damage."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from gateway.assignment import Snapshot
from gateway.contract.errors import Code
from gateway.features.store import ROWS, OnlineStore, view_key
from gateway.journal import JournalWriter
from gateway.pipeline import Pipeline
from gateway.request import Answers, Arm, Request, Slice
from gateway.run import Route
from gateway.servable import load
from gateway.transport import Call, Reply
from gateway.v1 import scoring_pb2 as pb
from gateway.wire.routes import parse_routes
from gateway.wire.scoring import encode_batch, encode_score, encode_stream
from tests.gateway import zoo

SCORE = "/gateway.v1.ScoringService/Score"
BATCH = "/gateway.v1.ScoringService/ScoreBatch"


def place(data: Path) -> Pipeline:
    """A pipeline that serves the zoo."""
    zoo.place(data)
    table = parse_routes((data / "routes.pb").read_bytes())
    pipeline = Pipeline(OnlineStore(data / "features"), JournalWriter(data / "journal", 1 << 20), 1 << 20)
    routes = {name: Route(load(served, data / "artifacts"), 7) for name, served in table.champions.items()}
    pipeline.snapshot = Snapshot(7, routes, frozenset({"late"}), known=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    return place(tmp_path_factory.mktemp("pipeline"))


def call(message: Any, method: str = SCORE, deadline_ns: int | None = None) -> Call:
    """A call that waits for long."""
    return Call(method, message.SerializeToString(), deadline_ns or time.monotonic_ns() + 10**12)


def churn(key: str) -> pb.ScoreRequest:
    """Asks for a subscriber's churn score."""
    return pb.ScoreRequest(model="churn", entities={"subscriber": key})


def reason(reply: Reply) -> str:
    """The reason of a refusal."""
    info = ErrorInfo()
    assert Status.FromString(reply.details).details[0].Unpack(info)
    return info.reason


def test_a_call_whose_deadline_has_passed_is_not_scored(pipeline: Pipeline) -> None:
    """The others of its batch are, and the journal has a row for each."""
    before = pipeline.journal.next_row
    late, good = pipeline.process([call(churn("S1"), deadline_ns=time.monotonic_ns() - 1), call(churn("S2"))])
    assert (late.code, reason(late)) == (Code.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")
    assert good.code == 0
    assert pipeline.journal.next_row == before + 2


def test_a_model_that_is_still_loading_is_not_ready(pipeline: Pipeline) -> None:
    """UNAVAILABLE, which a client may repeat, and not NOT_FOUND."""
    (reply,) = pipeline.process([call(pb.ScoreRequest(model="late"))])
    assert (reply.code, reason(reply)) == (Code.UNAVAILABLE, "NOT_READY")


def test_calls_of_one_batch_are_answered_as_they_would_be_alone(pipeline: Pipeline) -> None:
    """Calls of several models, batches and bad calls mixed, with more rows than one run takes."""
    keys = [f"S{i}" for i in range(200)]
    many = pb.ScoreBatchRequest(model="churn", entities=[pb.EntityColumn(entity="subscriber", keys=keys)])
    fraud = pb.ScoreRequest(model="fraud", inputs={"amount": pb.Value(number=4)})
    calls = [call(churn("S5")), call(many, BATCH), call(fraud), call(pb.ScoreRequest(model="nope")), call(many, BATCH)]
    together = pipeline.process(calls)
    alone = [pipeline.process([one])[0] for one in calls]
    assert [reply.code for reply in together] == [0, 0, 0, Code.NOT_FOUND, 0]
    for got, wanted, kind in ((0, 0, pb.ScoreResponse), (2, 2, pb.ScoreResponse)):
        assert kind.FromString(together[got].body).score == kind.FromString(alone[wanted].body).score
    for index in (1, 4):
        got_batch, wanted_batch = (pb.ScoreBatchResponse.FromString(r[index].body) for r in (together, alone))
        assert got_batch.scores == wanted_batch.scores
        assert len(set(got_batch.prediction_ids)) == 200


def test_a_damaged_row_is_not_used(tmp_path: Path) -> None:
    """The entity's row fails its checksum: its call ends in FEATURE_DAMAGED, and no other does."""
    zoo.place(tmp_path)
    with lmdb.open(str(tmp_path / "features"), max_dbs=2) as environment:
        rows = environment.open_db(ROWS, create=False)
        with environment.begin(write=True) as transaction:
            name = b"S3" + view_key(zoo.USAGE.digest())
            value = bytearray(transaction.get(name, db=rows))
            value[30] ^= 1
            transaction.put(name, bytes(value), db=rows)
    table = parse_routes((tmp_path / "routes.pb").read_bytes())
    pipeline = Pipeline(OnlineStore(tmp_path / "features"), JournalWriter(tmp_path / "journal", 1 << 20), 1 << 20)
    servable = load(table.champions["churn"], tmp_path / "artifacts")
    pipeline.snapshot = Snapshot(7, {"churn": Route(servable, 7)}, frozenset(), known=True)
    damaged, good = pipeline.process([call(churn("S3")), call(churn("S4"))])
    assert (damaged.code, reason(damaged)) == (Code.INTERNAL, "FEATURE_DAMAGED")
    assert pb.ScoreResponse.FromString(good.body).score == pytest.approx(zoo.churn_score(4, 4, "ny"), abs=1e-6)


APPEND = """
import sys
from pathlib import Path
from gateway.features.writer import Batch, OnlineWriter
from tests.gateway import zoo
columns = {"minutes": [0.0], "calls": [0], "state": [3], "roaming": [True]}
row = zoo.RowCodec(zoo.USAGE).encode([zoo.NOW_NS + 1], [zoo.NOW_NS + 1], columns, {})
batch = Batch(3, zoo.USAGE.digest(), zoo.USAGE.canonical(), {"state": (3, ["zz"])}, ["S0"], row)
assert OnlineWriter(Path(sys.argv[1]), 1 << 26).apply(batch, zoo.HISTORY)
"""


def test_a_string_that_is_new_to_the_dictionary_is_read(tmp_path: Path) -> None:
    """The dictionary was read before it grew, by the process that writes; the next batch reads it again."""
    pipeline = place(tmp_path)
    assert pipeline.process([call(churn("S0"))])[0].code == 0
    subprocess.run([sys.executable, "-c", APPEND, tmp_path / "features"], check=True, timeout=60)
    (reply,) = pipeline.process([call(churn("S0"))])
    assert pb.ScoreResponse.FromString(reply.body).score == pytest.approx(0.0, abs=1e-6)  # the weight of no known state


answers = st.builds(
    lambda scores, decisions, ages, defaulted, ranked: Answers(
        model="m",
        version=4,
        revision=9,
        arm=Arm.PINNED,
        raw_prefix=b"0123456789abcdef",
        first_row=4094,
        scores=scores,
        decisions=[decisions] * len(scores) if decisions else None,
        rankings=[[("a", 0.5), ("b", 0.25)]] * len(scores) if ranked else None,
        outputs={},
        defaulted=[defaulted] * len(scores) if defaulted else None,
        ages_ms=[ages] * len(scores) if ages is not None else None,
        unknown=None,
        stale=None,
        errors={},
    ),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=5),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.none() | st.integers(-1, 2**62),
    st.integers(0, 300),
    st.booleans(),
)


@given(answers)
def test_a_reply_put_together_from_bytes_is_the_message_that_it_says(found: Answers) -> None:
    """Protobuf reads from it what was put in, for one row, for a stream and for a batch."""
    n = len(found.scores)
    part = Slice(Request("m", "", 0, {}, id="x"), found, n - 1, n)
    reply = pb.ScoreResponse.FromString(encode_score(part))
    assert (reply.model, reply.version, reply.revision, reply.arm) == ("m", 4, 9, pb.ARM_PINNED)
    assert (reply.score, reply.prediction_id) == (found.scores[-1], f"0123456789abcdef{4094 + n - 1:012x}")
    assert reply.decision == (found.decisions[-1] if found.decisions else "")
    assert reply.defaulted == (found.defaulted[-1] if found.defaulted else 0)
    assert len(reply.ranking) == (2 if found.rankings else 0)
    known = found.ages_ms is not None and found.ages_ms[-1] >= 0
    assert (reply.HasField("feature_age_ms"), known and reply.feature_age_ms == found.ages_ms[-1]) == (known, known)
    streamed = pb.ScoreStreamResponse.FromString(encode_stream(part))
    assert (streamed.id, streamed.score) == ("x", reply)
    whole = pb.ScoreBatchResponse.FromString(encode_batch(Slice(Request("m", "", 0, {}), found, 0, n)))
    assert list(whole.scores) == found.scores
    assert list(whole.prediction_ids) == [f"0123456789abcdef{4094 + row:012x}" for row in range(n)]
