"""The join of `control.outcomes.join`, over the files of the lake, with DuckDB."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb

from control.outcomes.evidence import Pair
from control.outcomes.join import (
    PATIENCE_NS,
    SKEW_NS,
    Counts,
    Fate,
    Joined,
    KpiValue,
    Labelled,
    Prediction,
    Rule,
)
from control.outcomes.mistakes import rule_of
from gateway.contract.document import ModelDocument

BITS: Final = {"fallback": 16, "follows": 1}
"""The bit of `flags` that says that no model was asked, and the one of `rollout_flags` that a row is no evidence of its
own."""
JOIN: Final = Path(__file__).with_name("join.sql")
LIMITS: Final[dict[str, str | int | float | list[str]]] = {"threads": 2, "memory_limit": "1GB"}
"""Of one query: the control plane has other work to do. What needs more memory goes by way of the disk."""
PREDICTIONS: Final = (
    "SELECT '' prediction_id, 0::BIGINT time_ns, '' model, 0::BIGINT version, '' arm, '' answered_by, "
    "0::BIGINT rollout_id, 0 step, 0 weight_bps, 0::UBIGINT entity_hash, 0 flags, 0 rollout_flags, "
    "0.0::DOUBLE score, '' decision LIMIT 0"
)
OUTCOMES: Final = (
    "SELECT '' outcome_id, 0::BIGINT recorded_ns, '' gateway_id, '' prediction_id, '' model, "
    "map{'': 0::UBIGINT} entity_hashes, 0::BIGINT event_time_ns, 0.0::DOUBLE label_number, '' label_text, "
    "map{'': 0.0::DOUBLE} kpis LIMIT 0"
)
"""What stands for the files where there are none yet."""

LABELLED: Final = """
    SELECT predictions.*, label_number, label_text, arrival_ns, absent
    FROM (
        SELECT prediction_id, label_number, label_text, recorded_ns AS arrival_ns, false AS absent
        FROM labels WHERE age = 1
        UNION ALL
        SELECT prediction_id, 0.0::DOUBLE, NULL, arrival_ns, true FROM silent
    ) JOIN predictions USING (prediction_id)
    WHERE time_ns >= $since_ns AND ($rollout_id IS NULL OR rollout_id = $rollout_id)
    ORDER BY arrival_ns, prediction_id
"""
KPIS: Final = """
    SELECT predictions.*, kpi.key, kpi.value, recorded_ns
    FROM (
        SELECT prediction_id, event_time_ns, recorded_ns, outcome_id, unnest(map_entries(kpis)) AS kpi
        FROM fates WHERE fate = 'matched'
    ) JOIN predictions USING (prediction_id)
    WHERE time_ns >= $since_ns AND ($rollout_id IS NULL OR rollout_id = $rollout_id)
    QUALIFY row_number() OVER (
        PARTITION BY prediction_id, kpi.key ORDER BY event_time_ns DESC, recorded_ns DESC, outcome_id DESC
    ) = 1
    ORDER BY recorded_ns, prediction_id, kpi.key
"""
COUNTS: Final = """
    SELECT fate, count(*) FROM fates GROUP BY fate
    UNION ALL SELECT 'duplicate', count(*) FROM known WHERE place > 1 HAVING count(*) > 0
"""
OTHERS: Final = """
    SELECT (SELECT count(*) FROM labels WHERE age > 1), (SELECT count(*) FROM labels WHERE conflicts),
        (SELECT count(*) FROM silent JOIN predictions USING (prediction_id) WHERE time_ns >= $since_ns)
"""


NO_PAIRS: Final = (
    "SELECT '' prediction_id, 0::BIGINT time_ns, 0::BIGINT rollout_id, 0::BIGINT AS version, 0.0::DOUBLE score, "
    "'' decision, 0::BIGINT other_version, 0.0::DOUBLE other_score, '' other_decision LIMIT 0"
)
PAIRS: Final = """
    SELECT DISTINCT ON (prediction_id) prediction_id, version, score, decision::VARCHAR,
        other_version, other_score, other_decision::VARCHAR
    FROM read_pairs
    WHERE rollout_id = $rollout_id AND time_ns >= $since_ns AND score IS NOT NULL AND other_score IS NOT NULL
    ORDER BY prediction_id
"""


class LabelledRollout(NamedTuple):
    """A rollout, as far as its labels are concerned."""

    model: str
    rollout_id: int
    since_ns: int
    """When its canary began."""
    documents: Mapping[int, ModelDocument]
    """Of the versions that took part, by their numbers. The newest one's outcome rule holds for all of them."""


class Mark(NamedTuple):
    """What a gateway says of its part of the lake."""

    through_ns: int
    """Everything up to then is there."""
    lost_rows: int
    """Rows that were overwritten before they were recorded, ever."""


def joined(
    lake: Path, rules: Mapping[str, Rule], as_of_ns: int, since_ns: int = 0, rollout_id: int | None = None
) -> Joined:
    """Joins what was in the lake at a time, for predictions made since another; of one rollout, or of all.

    Without a rollout the counts are those of all outcomes that were recorded since.
    """
    window_ns = max((rule.window_ns for rule in rules.values()), default=0)
    # Older predictions and other models matter to the counts alone: whose outcomes arrive now.
    every = rollout_id is None
    hours = "model=*/hour=*" if every or len(rules) != 1 else f"model={next(iter(rules))}/hour=*"
    from_ns = since_ns - window_ns if every else since_ns
    with _connection() as connection:
        _view(connection, "read_predictions", _files(lake / "predictions", hours, from_ns), PREDICTIONS)
        _view(connection, "read_outcomes", _files(lake / "outcomes", "hour=*", since_ns - SKEW_NS), OUTCOMES)
        connection.execute(
            "CREATE TEMP TABLE rules (model VARCHAR, window_ns BIGINT, negative BOOLEAN, entity VARCHAR)"
        )
        if rules:
            connection.executemany("INSERT INTO rules VALUES (?, ?, ?, ?)", [[name, *rules[name]] for name in rules])
        given = {"as_of_ns": as_of_ns, "patience_ns": PATIENCE_NS, "skew_ns": SKEW_NS, **BITS}
        for name, value in given.items():
            connection.execute(f"SET VARIABLE {name} = {value}::BIGINT")
        connection.execute(JOIN.read_text())
        wanted = {"since_ns": since_ns, "rollout_id": rollout_id}
        labelled = connection.execute(LABELLED, wanted).fetchall()
        kpis = connection.execute(KPIS, wanted).fetchall()
        fates = connection.execute(COUNTS).fetchall()
        superseded, conflicting, absent = connection.execute(OTHERS, {"since_ns": since_ns}).fetchall()[0]
    width = len(Prediction._fields)
    return Joined(
        [Labelled(Prediction(*row[:width]), *row[width:]) for row in labelled],
        [KpiValue(Prediction(*row[:width]), *row[width:]) for row in kpis],
        Counts({Fate(name): count for name, count in fates}, superseded, conflicting, absent),
    )


def of_rollout(lake: Path, rollout: LabelledRollout, as_of_ns: int) -> Joined:
    """What happened after a rollout's predictions, as was known at a time; `evidence` makes rows and counts of it."""
    return joined(lake, _rules(rollout), as_of_ns, rollout.since_ns, rollout.rollout_id)


def of_model(lake: Path, rollout: LabelledRollout, as_of_ns: int) -> Joined:
    """What happened after all predictions of the model since the rollout began, with which its shadow is paired."""
    return joined(lake, _rules(rollout), as_of_ns, rollout.since_ns)


def _rules(rollout: LabelledRollout) -> dict[str, Rule]:
    rule = rule_of(rollout.documents[max(rollout.documents)])
    return {} if rule is None else {rollout.model: rule}


def pairs_of(lake: Path, rollout: LabelledRollout) -> list[Pair]:
    """What a rollout's shadow said of rows that callers got from another version, where both have a score."""
    with _connection() as connection:
        files = _files(lake / "pairs", f"model={rollout.model}/hour=*", rollout.since_ns)
        _view(connection, "read_pairs", files, NO_PAIRS)
        found = connection.execute(PAIRS, {"rollout_id": rollout.rollout_id, "since_ns": rollout.since_ns}).fetchall()
    return [Pair(*row) for row in found]


def marks(lake: Path) -> dict[str, Mark]:
    """What the gateways say of their parts of the lake, by their ids."""
    found = {}
    for path in (lake / "gateways").glob("[!.]*.json"):
        said = json.loads(path.read_text())
        found[str(said["gateway_id"])] = Mark(said["through_ns"], said["lost_rows"])
    return found


@contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory() as spill:
        connection = duckdb.connect(config={**LIMITS, "temp_directory": spill})
        try:
            yield connection
        finally:
            connection.close()


def _files(directory: Path, hours: str, from_ns: int) -> list[str]:
    """The files of the hours from a time on."""
    first = datetime.fromtimestamp(max(from_ns, 0) // 1_000_000_000, UTC).strftime("hour=%Y-%m-%dT%H")
    found = (hour.glob("part-*.parquet") for hour in directory.glob(hours) if hour.name >= first)
    return sorted(str(path) for paths in found for path in paths)


def _view(connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[str], nothing: str) -> None:
    if not files:
        connection.execute(f"CREATE TEMP VIEW {name} AS {nothing}")
        return
    relation: Any = connection.read_parquet(list(files), hive_partitioning=False, union_by_name=True)
    relation.create_view(name)
