"""The recorder: every journalled row and every outcome is in the lake once, whoever is killed in between."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from control.v1 import data_plane_pb2
from gateway.config import Config
from gateway.contract.document import document_from_json
from gateway.contract.errors import Reason
from gateway.journal import ROW, STAGES, Block, JournalWriter
from gateway.outcome_log import OutcomeLog, segments
from gateway.pairs import OTHER, Mirrored, pairs_block
from gateway.record import REASON_NUMBERS
from gateway.recorder.columns import OUTCOMES, PAIRS, PREDICTIONS
from gateway.recorder.lake import Lake
from gateway.recorder.predictions import hour
from gateway.recorder.spool import Spool
from gateway.v1 import scoring_pb2, scoring_pb2_grpc
from gateway.wire.outcomes import entity_hash, record
from tests.gateway import zoo
from tests.gateway.gateways import gateway
from tests.gateway.roles import board, prepared, role
from tests.support import STRESS, until

KILLS = 40 if STRESS else 4
HOUR_NS = 3_600_000_000_000
NOON_NS = 1_795_608_000_000_000_000
"""2026-11-25T12:00:00Z."""


def block(n: int = 1, model: str = "churn", time_ns: int = NOON_NS, **fields: Any) -> Block:
    """A block of n rows that are alike."""
    rows = np.zeros(n, ROW)
    rows["arm"] = rows["answered_by"] = 1
    rows["feature_age_ms"] = rows["decision"] = -1
    for name, value in fields.items():
        rows[name] = value
    return Block(model, 1, 7, 3, time_ns, (1_500,) * len(STAGES), rows, [b"features" * n])


def outcome(name: str) -> bytes:
    """A record of the outcome log."""
    row = scoring_pb2.Outcome(id=name, model="churn", event_time_ns=NOON_NS, number=1.0, kpis={"revenue": 2.5})
    row.entities["subscriber"] = "S1"
    return record(row, NOON_NS)


def rows(config: Config, kind: str = "predictions") -> list[dict[str, Any]]:
    """Every row of the lake."""
    files = sorted((config.lake_path / kind).rglob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def count(config: Config, kind: str = "predictions") -> int:
    """How many rows the lake has, without reading them."""
    return sum(pq.read_metadata(file).num_rows for file in (config.lake_path / kind).rglob("*.parquet"))


def settled(config: Config, expected: int) -> list[dict[str, Any]]:
    """The predictions, once so many are there."""
    until(lambda: count(config) >= expected, 60)
    return rows(config)


def recording(tmp_path: Path, **settings: Any) -> Config:
    """A data directory whose lake is filled every 100 ms."""
    return prepared(tmp_path / "gateway", lake_flush_ms=100, **settings)


def test_a_scored_row_has_every_column(tmp_path: Path) -> None:
    """With the values that it was scored with, since its document says so, and the decision by its name."""
    data = tmp_path / "gateway"
    data.mkdir()
    zoo.place(data)
    table = data_plane_pb2.RouteTable.FromString((data / "routes.pb").read_bytes())
    for route in table.models:
        document = document_from_json(route.champion.document_json)
        logged = document.model_copy(update={"log_features": document.name in ("churn", "revenue")})
        route.champion.document_json = logged.canonical()
    (data / "routes.pb").write_bytes(table.SerializeToString())
    config = Config(data=data)
    with gateway(data, "--recorder=true", "--lake-flush-ms=200") as running:
        until(running.ready)
        with running.channel() as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            churn = stub.Score(scoring_pb2.ScoreRequest(model="churn", entities={"subscriber": "S8"}), timeout=10)
            inputs = {"amount": scoring_pb2.Value(number=2.5), "channel": scoring_pb2.Value(text="web")}
            stub.Score(scoring_pb2.ScoreRequest(model="revenue", inputs=inputs), timeout=10)
            stub.Score(scoring_pb2.ScoreRequest(model="fraud", inputs={"amount": inputs["amount"]}), timeout=10)
            with pytest.raises(Exception, match="roaming"):
                stub.Score(scoring_pb2.ScoreRequest(model="strict", entities={"subscriber": "gone"}), timeout=10)
        found = {row["model"]: row for row in settled(config, 4)}
        status = until(lambda: answer.lake if (answer := running.status()).lake.through_ns else None)
        assert (status.off, list(status.problems), status.lost_rows) == ("", [], 0)
        assert running.stop() == 0
    row = found["churn"]
    assert row["prediction_id"] == churn.prediction_id
    assert (row["revision"], row["version"], row["arm"], row["answered_by"]) == (7, 3, "champion", "champion")
    assert (row["rollout_id"], row["step"], row["weight_bps"], row["flags"], row["rollout_flags"]) == (None, 0, 0, 0, 0)
    assert row["entity_hash"] == entity_hash(b"S8")
    assert (row["score"], row["decision"], row["reason"]) == (churn.score, churn.decision, None)
    assert (row["feature_sequence"], row["defaulted"]) == (2, 0)
    assert row["feature_age_ms"] is not None
    assert row["gateway_id"] == (data / "gateway.id").read_text()
    assert all(row[f"{stage}_ns"] >= 0 for stage in STAGES)
    numbers, texts = dict(row["features"]), dict(row["texts"])
    assert numbers["usage.minutes"] == 8.0
    assert numbers["usage.calls"] == 3.0
    assert texts == {"usage.state": "ny"}
    sent = found["revenue"]
    assert dict(sent["features"])["amount"] == 2.5
    assert dict(sent["texts"]) == {"channel": "web"}
    assert (sent["entity_hash"], sent["feature_age_ms"]) == (None, None)
    assert found["fraud"]["features"] is None
    refused = found["strict"]
    assert (refused["score"], refused["answered_by"]) == (None, "unassigned")
    assert refused["reason"] == Reason.FEATURE_MISSING


def test_rows_lie_by_model_and_hour_in_one_schema(tmp_path: Path) -> None:
    """DuckDB reads the directories as columns, and finds the rows of one model and hour without the others."""
    config = recording(tmp_path)
    journal = JournalWriter(config.journal_path / "worker-0", 1 << 20)
    journal.append(block(3))
    journal.append(block(2, time_ns=NOON_NS + HOUR_NS))
    journal.append(block(1, model="offer"))
    journal.append(block(4, model=""))
    with role("recorder", config):
        settled(config, 6)
    directories = sorted(str(path.relative_to(config.lake_path)) for path in config.lake_path.glob("predictions/*/*"))
    assert directories == [
        "predictions/model=churn/hour=2026-11-25T12",
        "predictions/model=churn/hour=2026-11-25T13",
        "predictions/model=offer/hour=2026-11-25T12",
    ]
    for file in config.lake_path.glob("predictions/*/*/*"):
        assert pq.read_schema(file).names == PREDICTIONS.names
    query = "SELECT model, hour, count(*) FROM read_parquet(?, hive_partitioning = true) GROUP BY ALL ORDER BY ALL"
    found = duckdb.execute(query, [f"{config.lake_path}/predictions/*/*/*.parquet"]).fetchall()
    assert [(model, str(at), n) for model, at, n in found] == [
        ("churn", "2026-11-25T12", 3),
        ("churn", "2026-11-25T13", 2),
        ("offer", "2026-11-25T12", 1),
    ]
    assert hour(NOON_NS - 1) == "2026-11-25T11"


def test_what_a_newer_worker_writes_breaks_nothing(tmp_path: Path) -> None:
    """Arms, reasons and decisions that this release does not know."""
    config = recording(tmp_path)
    JournalWriter(config.journal_path / "worker-0", 1 << 20).append(
        block(1, arm=200, answered_by=99, reason=60_000, decision=12, score=np.nan)
    )
    with role("recorder", config):
        (row,) = settled(config, 1)
    assert (row["arm"], row["answered_by"], row["reason"], row["decision"]) == ("OTHER", "OTHER", "OTHER", None)


def test_outcomes_go_to_the_lake_and_their_segments_from_the_log(tmp_path: Path) -> None:
    """What is in the lake is removed from the gateway's disk; the newest segment stays until there is a newer one."""
    config = recording(tmp_path)
    log = OutcomeLog(config.outcomes_path / "worker-0", 1 << 20, 256)
    names = [f"o{number}" for number in range(20)]
    for name in names:
        log.append([outcome(name)])
    log.close()
    assert len(segments(log.directory)) > 5
    with role("recorder", config):
        until(lambda: len(rows(config, "outcomes")) >= 20)
        until(lambda: len(segments(log.directory)) == 1)
    found = rows(config, "outcomes")
    assert [row["outcome_id"] for row in found] == names
    first = found[0]
    assert set(first) == set(OUTCOMES.names)
    assert dict(first["entity_hashes"]) == {"subscriber": entity_hash(b"S1")}
    assert (first["prediction_id"], first["model"], first["event_time_ns"]) == (None, "churn", NOON_NS)
    assert (first["label_number"], first["label_text"], dict(first["kpis"])) == (1.0, None, {"revenue": 2.5})


def test_rows_that_were_overwritten_are_counted_in_the_lake(tmp_path: Path) -> None:
    """The count survives restarts, and the mark says up to when everything is there."""
    config = recording(tmp_path)
    journal = JournalWriter(config.journal_path / "worker-0", 1 << 17)
    journal.append(block(1))
    with role("recorder", config):
        settled(config, 1)
    for _ in range(2000):
        journal.append(block(5))
    before_ns = time.time_ns()
    mark = config.lake_path / "gateways" / "gateway-under-test.json"
    for _ in range(2):
        with role("recorder", config):
            until(lambda: json.loads(mark.read_text())["through_ns"] > before_ns)  # noqa: B023 - called at once
        said = json.loads(mark.read_text())
        assert said["lost_rows"] + len(rows(config)) == 10_001
        assert said["lost_rows"] > 5_000
        before_ns = time.time_ns()


def test_a_lake_that_takes_nothing_is_a_problem_to_show_and_loses_nothing(tmp_path: Path) -> None:
    """The recorder goes on as soon as it can."""
    config = recording(tmp_path)
    journal = JournalWriter(config.journal_path / "worker-0", 1 << 20)
    config.lake_path.write_text("no directory")
    with role("recorder", config) as process:
        journal.append(block(3))
        until(lambda: any("LAKE_NOT_WRITTEN" in text for text in board(config, "recorder").get("problems", ())))
        journal.append(block(4))
        assert process.poll() is None
        config.lake_path.unlink()
        settled(config, 7)
        until(lambda: board(config, "recorder")["problems"] == [])
    assert len({row["prediction_id"] for row in rows(config)}) == len(rows(config)) == 7


def test_mirrored_pairs_go_to_the_lake_by_the_ids_of_their_predictions(tmp_path: Path) -> None:
    """What the shadow said beside what the other version said of the same row."""
    config = recording(tmp_path)
    live = block(3)._replace(prefix="ab" * 8, first_row=40)
    others = np.zeros(2, OTHER)
    others["row"], others["score"], others["decision"], others["other_ns"] = [40, 42], [0.5, np.nan], -1, 7
    others["reason"] = [0, REASON_NUMBERS[Reason.MODEL_FAILED]]
    shadow = block(2, score=0.25, entity_hash=9).rows
    mirror = JournalWriter(config.mirror_journal_path / "worker-mirror", 1 << 20)
    mirror.append(pairs_block(live, (5, 2), 1, Mirrored(shadow, others)))
    with role("recorder", config):
        found = until(lambda: rows(config, "pairs"))
    assert [row["prediction_id"] for row in found] == [f"{'ab' * 8}{number:012x}" for number in (40, 42)]
    assert (found[0]["model"], found[0]["rollout_id"], found[0]["version"], found[0]["other_version"]) == (
        "churn",
        5,
        2,
        1,
    )
    assert (found[0]["score"], found[0]["other_score"], found[1]["other_score"]) == (0.25, 0.5, None)
    assert (found[0]["entity_hash"], found[0]["time_ns"], found[0]["other_run_ns"]) == (9, NOON_NS, 7)
    assert (found[0]["other_reason"], found[1]["other_reason"]) == (None, Reason.MODEL_FAILED)
    assert set(found[0]) == set(PAIRS.names)


def one(name: str) -> pa.Table:
    """A table of one value."""
    return pa.table({"name": [name]})


def names(lake: Path) -> list[str]:
    """Everything in a lake of such tables."""
    return sorted(row["name"] for file in lake.rglob("*.parquet") for row in pq.ParquetFile(file).read().to_pylist())


def test_a_recorder_killed_between_any_two_durable_steps_puts_each_file_once(tmp_path: Path) -> None:
    """Before the state is written nothing counts; after it everything does, by whoever comes next."""
    lake, spool, state = Lake(tmp_path / "lake"), tmp_path / "spool", tmp_path / "state"
    first = Spool(spool, state, lake)
    first.commit({"a": one("a1"), "b": one("b1")}, {"position": 1}, "g")
    assert names(lake.directory) == []  # killed here:
    second = Spool(spool, state, lake)
    assert second.facts == {"position": 1}
    content = (spool / "000000000001-0000.parquet").read_bytes()
    second.deliver()
    assert names(lake.directory) == ["a1", "b1"]
    (spool / "000000000001-0000.parquet").write_bytes(content)  # killed between the lake's rename and the unlink:
    third = Spool(spool, state, lake)
    third.deliver()
    assert names(lake.directory) == ["a1", "b1"]
    (spool / "000000000002-0000.parquet").write_bytes(b"half a file")  # killed before the state was written:
    fourth = Spool(spool, state, lake)
    assert fourth.facts == {"position": 1}
    fourth.deliver()
    fourth.commit({"a": one("a2")}, {"position": 2}, "g")
    fourth.deliver()
    assert names(lake.directory) == ["a1", "a2", "b1"]
    assert list(spool.iterdir()) == []
    assert not [path for path in lake.directory.rglob("*") if path.is_file() and path.suffix != ".parquet"]


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_every_row_is_in_the_lake_once_though_recorders_are_killed(tmp_path: Path) -> None:
    """Killed at any moment, again and again, while two workers write."""
    config = recording(tmp_path)
    chance = random.Random(11)
    journals = [JournalWriter(config.journal_path / f"worker-{index}", 32 << 20) for index in range(2)]
    log = OutcomeLog(config.outcomes_path / "worker-0", 64 << 20, 4096)
    written = reported = 0
    for _ in range(KILLS):
        with role("recorder", config) as process:
            goal = written + chance.randrange(200, 2000)
            last_ns = time.monotonic_ns() + chance.randrange(200, 1200) * 1_000_000
            while written < goal or time.monotonic_ns() < last_ns:
                if written < goal:
                    journals[written % 2].append(
                        block(1, model=f"m{written % 3}", time_ns=NOON_NS + written % 7 * HOUR_NS)
                    )
                    written += 1
                    log.append([outcome(f"o{reported}")])
                    reported += 1
            process.kill()
            process.wait()
    log.close()
    with role("recorder", config):
        settled(config, written)
        until(lambda: count(config, "outcomes") >= reported, 60)
    found = Counter(row["prediction_id"] for row in rows(config))
    expected = {f"{journal.prefix}{number:012x}" for journal in journals for number in range(journal.next_row)}
    assert set(found) == expected
    assert set(found.values()) == {1}
    assert Counter(row["outcome_id"] for row in rows(config, "outcomes")) == Counter(f"o{n}" for n in range(reported))


def test_without_a_recorder_the_status_says_why(tmp_path: Path) -> None:
    """It was switched off, or the extra is absent; scoring does not care."""
    with gateway(tmp_path / "gateway") as running:
        until(lambda: running.supervisor()["children"])
        assert running.status().lake.off == "off (gateway.recorder)"
        assert "recorder" not in {child["role"] for child in running.supervisor()["children"]}
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("columns", [PREDICTIONS.names, OUTCOMES.names, PAIRS.names])
def test_the_page_of_the_lake_explains_every_column(columns: Sequence[str]) -> None:
    """In the order of the files."""
    page = (Path(__file__).parents[2] / "docs" / "lake.md").read_text()
    explained = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert "\n".join(columns) in "\n".join(explained)
