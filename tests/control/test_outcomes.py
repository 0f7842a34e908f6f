"""How outcomes belong to predictions: the rules one by one, their properties, and DuckDB held against them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.outcomes import lake as lakes
from control.outcomes.evidence import Pair, business_rows, counted, labelled_rows, mistaken_alone
from control.outcomes.join import (
    DAY_NS,
    PATIENCE_NS,
    SKEW_NS,
    Fate,
    Joined,
    Labelled,
    Outcome,
    Prediction,
    Rule,
    join,
)
from control.outcomes.mistakes import mistaken, rule_of
from gateway.contract.document import ModelDocument
from gateway.recorder.columns import OUTCOMES, PAIRS, PREDICTIONS
from tests.support import STRESS

NOW_NS = 1_795_608_000_000_000_000
WINDOW_NS = 30 * DAY_NS
RULES = {
    "churn": Rule(WINDOW_NS, negative=True, entity="subscriber"),
    "spend": Rule(WINDOW_NS, negative=False, entity="subscriber"),
}
LATER_NS = NOW_NS + 365 * DAY_NS


def prediction(name: str = "p", at_ns: int = NOW_NS, **more: Any) -> Prediction:
    """The champion's answer for entity 1."""
    filled: dict[str, Any] = {
        "model": "churn",
        "version": 1,
        "arm": "champion",
        "rollout_id": None,
        "step": 0,
        "weight_bps": 0,
        "entity_hash": 1,
        "score": 0.25,
        "decision": "leave",
    }
    return Prediction(name, at_ns, **(filled | more))


def outcome(name: str = "o", at_ns: int = NOW_NS + DAY_NS, **more: Any) -> Outcome:
    """A label for prediction p, recorded when it happened."""
    filled: dict[str, Any] = {
        "recorded_ns": at_ns,
        "gateway_id": "g",
        "prediction_id": "p",
        "model": None,
        "entity_hashes": {},
        "event_time_ns": at_ns,
        "label_number": 1.0,
        "label_text": None,
        "kpis": {},
    }
    return Outcome(name, **(filled | more))


def of_entity(name: str = "o", at_ns: int = NOW_NS + DAY_NS, entity_hash: int = 1, **more: Any) -> Outcome:
    """A label for an entity's last prediction."""
    named = {"prediction_id": None, "model": "churn", "entity_hashes": {"subscriber": entity_hash, "offer": 99}}
    return outcome(name, at_ns, **(named | more))


def fate(found: Joined) -> Fate:
    """What became of the one outcome."""
    (name,) = found.counts.fates
    return name


def labels(found: Joined) -> list[tuple[str, float | None, bool]]:
    """Predictions with their labels, and whether they are by absence."""
    return [(one.prediction.prediction_id, one.label_number, one.absent) for one in found.labelled]


def test_an_outcome_labels_the_prediction_that_it_names() -> None:
    """It arrived when it was recorded."""
    found = join([prediction()], [outcome(recorded_ns=NOW_NS + 2 * DAY_NS)], RULES, LATER_NS)
    assert labels(found) == [("p", 1.0, False)]
    assert found.labelled[0].arrival_ns == NOW_NS + 2 * DAY_NS
    assert found.counts.fates == {Fate.MATCHED: 1}


def test_an_outcome_of_an_entity_labels_the_last_prediction_before_it() -> None:
    """Not one that came after, nor one of another entity or model, nor a call that named its version."""
    others = [
        prediction("old", NOW_NS - DAY_NS),
        prediction("after", NOW_NS + 2 * DAY_NS),
        prediction("other", NOW_NS + 1, entity_hash=2),
        prediction("model", NOW_NS + 1, model="spend"),
        prediction("pinned", NOW_NS + 1, arm="pinned"),
    ]
    found = join([*others, prediction()], [of_entity()], RULES, NOW_NS + DAY_NS)
    assert labels(found) == [("p", 1.0, False)]


def test_an_outcome_at_the_very_time_of_a_prediction_belongs_to_it() -> None:
    """At or before, says the rule."""
    assert labels(join([prediction()], [of_entity(at_ns=NOW_NS)], RULES, NOW_NS)) == [("p", 1.0, False)]


def test_an_outcome_sent_twice_counts_once() -> None:
    """The first recorded under the id counts, whatever the second one says."""
    again = outcome(recorded_ns=NOW_NS + 2 * DAY_NS, label_number=0.0)
    found = join([prediction()], [again, outcome()], RULES, LATER_NS)
    assert labels(found) == [("p", 1.0, False)]
    assert found.counts.fates == {Fate.MATCHED: 1, Fate.DUPLICATE: 1}


def test_a_newer_outcome_corrects_an_older_one() -> None:
    """By when it happened, then by when it was recorded; what it replaces is counted, and what it contradicts."""
    rows = [
        outcome("a", NOW_NS + 3 * DAY_NS, label_number=0.0),
        outcome("b", NOW_NS + 2 * DAY_NS, label_number=1.0),
        outcome("c", NOW_NS + 3 * DAY_NS, recorded_ns=NOW_NS + 4 * DAY_NS, label_number=0.0),
    ]
    found = join([prediction()], rows, RULES, LATER_NS)
    assert labels(found) == [("p", 0.0, False)]
    assert found.labelled[0].arrival_ns == NOW_NS + 4 * DAY_NS
    assert (found.counts.superseded, found.counts.conflicting) == (2, 1)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (outcome(at_ns=NOW_NS + WINDOW_NS), Fate.MATCHED),
        (outcome(at_ns=NOW_NS + WINDOW_NS + 1), Fate.LATE),
        (outcome(recorded_ns=NOW_NS + WINDOW_NS + 1), Fate.LATE),
        (of_entity(at_ns=NOW_NS + WINDOW_NS + 1), Fate.LATE),
        (outcome(event_time_ns=NOW_NS - SKEW_NS), Fate.MATCHED),
        (outcome(event_time_ns=NOW_NS - SKEW_NS - 1), Fate.EARLY),
        (outcome(prediction_id="nobody"), Fate.UNMATCHED),
        (of_entity(entity_hash=7), Fate.UNMATCHED),
        (of_entity(at_ns=NOW_NS - 1), Fate.UNMATCHED),
        (of_entity(entity_hashes={"offer": 1}), Fate.UNMATCHED),
        (of_entity(model="fraud"), Fate.RULELESS),
        (outcome(prediction_id="ruleless"), Fate.RULELESS),
    ],
)
def test_every_outcome_has_one_fate(row: Outcome, expected: Fate) -> None:
    """At the borders of the window, without a prediction, and without a rule."""
    rows = [prediction(), prediction("ruleless", model="fraud")]
    assert fate(join(rows, [row], RULES, LATER_NS)) is expected


def test_an_outcome_waits_seven_days_for_its_prediction() -> None:
    """The prediction may come to the lake later than its outcome."""
    row = outcome(prediction_id="later")
    assert fate(join([], [row], RULES, row.recorded_ns + PATIENCE_NS - 1)) is Fate.WAITING
    assert fate(join([], [row], RULES, row.recorded_ns + PATIENCE_NS)) is Fate.UNMATCHED
    came = [prediction("later")]
    assert fate(join(came, [row], RULES, row.recorded_ns + PATIENCE_NS)) is Fate.MATCHED


def test_absence_is_a_label_once_the_window_has_ended() -> None:
    """Where the document says so; the label arrives with the end of the window."""
    rows = [prediction("churn"), prediction("spend", model="spend")]
    assert labels(join(rows, [], RULES, NOW_NS + WINDOW_NS - 1)) == []
    found = join(rows, [], RULES, NOW_NS + WINDOW_NS)
    assert labels(found) == [("churn", 0.0, True)]
    assert found.labelled[0].arrival_ns == NOW_NS + WINDOW_NS
    assert found.counts.absent == 1


def test_absence_says_nothing_of_a_prediction_that_a_newer_one_replaced() -> None:
    """An outcome of the entity would have gone to the newer one."""
    rows = [prediction("first"), prediction("second", NOW_NS + DAY_NS), prediction("pinned", arm="pinned")]
    assert labels(join(rows, [], RULES, LATER_NS)) == [("second", 0.0, True)]
    apart = [prediction("first"), prediction("second", NOW_NS + WINDOW_NS + 1)]
    assert labels(join(apart, [], RULES, LATER_NS)) == [("first", 0.0, True), ("second", 0.0, True)]
    without = [prediction("a", entity_hash=None), prediction("b", entity_hash=None)]
    assert len(join(without, [], RULES, LATER_NS).labelled) == 2


def test_business_results_are_joined_by_name() -> None:
    """The newest of each; an outcome without a label labels nothing."""
    rows = [
        outcome("a", label_number=None, kpis={"revenue": 1.0, "calls": 2.0}),
        outcome("b", NOW_NS + 2 * DAY_NS, label_number=None, kpis={"revenue": 3.0}),
    ]
    found = join([prediction(model="spend")], rows, RULES, LATER_NS)
    assert [(one.name, one.value) for one in found.kpis] == [("calls", 2.0), ("revenue", 3.0)]
    assert found.labelled == []


MODELS = st.sampled_from(["churn", "spend", "fraud"])
TIMES = st.integers(0, 90).map(lambda days: NOW_NS + days * DAY_NS)
PREDICTED = st.builds(
    prediction,
    name=st.integers(0, 30).map(lambda number: f"p{number}"),
    at_ns=TIMES,
    model=MODELS,
    arm=st.sampled_from(["champion", "challenger", "pinned"]),
    entity_hash=st.none() | st.integers(0, 3).map(lambda number: number * (1 << 62) + 1),
    rollout_id=st.sampled_from([None, 5]),
)
LABEL = st.sampled_from([(1.0, None), (0.0, None), (None, "left"), (None, None)])
COMMON = {
    "name": st.integers(0, 40).map(lambda number: f"o{number}"),
    "at_ns": TIMES,
    "late_days": st.integers(0, 40),
    "label": LABEL,
    "kpis": st.dictionaries(st.sampled_from(["revenue", "calls"]), st.integers(0, 5).map(float), max_size=2),
    "gateway_id": st.sampled_from(["g", "h"]),
}


def reported(by_entity: bool, name: str, at_ns: int, late_days: int, label: Any, **more: Any) -> Outcome:
    """An outcome of either kind."""
    filled = more | {"recorded_ns": at_ns + late_days * DAY_NS, "label_number": label[0], "label_text": label[1]}
    return of_entity(name, at_ns, **filled) if by_entity else outcome(name, at_ns, **filled)


REPORTED = st.builds(
    reported, by_entity=st.just(False), prediction_id=st.integers(0, 35).map(lambda number: f"p{number}"), **COMMON
) | st.builds(
    reported,
    by_entity=st.just(True),
    model=MODELS,
    entity_hash=st.integers(0, 4).map(lambda number: number * (1 << 62) + 1 if number < 4 else 7),
    **COMMON,
)
ROWS = st.lists(PREDICTED, max_size=25, unique_by=lambda one: one.prediction_id)
REPORTS = st.lists(REPORTED, max_size=25, unique_by=lambda one: one[:-1].__repr__())


@settings(deadline=None)
@given(ROWS, REPORTS, TIMES, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(
    rows: list[Prediction], reports: list[Outcome], as_of_ns: int, chance: random.Random
) -> None:
    """Files come in any order, and rows may be there twice."""
    found = join(rows, reports, RULES, as_of_ns)
    shuffled = [*rows, *chance.sample(rows, len(rows) // 2)]
    chance.shuffle(shuffled)
    mixed = chance.sample(reports, len(reports))
    again = join(shuffled, mixed, RULES, as_of_ns)
    assert again.labelled == found.labelled
    assert again.counts == found.counts
    assert again.kpis == found.kpis


@settings(deadline=None)
@given(ROWS, REPORTS, TIMES)
def test_every_row_is_counted_and_no_prediction_has_two_labels(
    rows: list[Prediction], reports: list[Outcome], as_of_ns: int
) -> None:
    """A label belongs to a prediction that came before the end of its window."""
    found = join(rows, reports, RULES, as_of_ns)
    assert sum(found.counts.fates.values()) == sum(one.recorded_ns <= as_of_ns for one in reports)
    named = [one.prediction.prediction_id for one in found.labelled]
    assert len(named) == len(set(named))
    for one in found.labelled:
        assert one.prediction.time_ns - SKEW_NS <= one.arrival_ns <= one.prediction.time_ns + WINDOW_NS
        assert one.arrival_ns <= as_of_ns
    assert found.counts.conflicting <= found.counts.superseded <= found.counts.fates.get(Fate.MATCHED, 0)


@settings(deadline=None)
@given(ROWS, REPORTS, TIMES)
def test_what_was_sent_again_changes_nothing_but_its_count(
    rows: list[Prediction], reports: list[Outcome], as_of_ns: int
) -> None:
    """The same rows under the same ids, recorded later."""
    found = join(rows, reports, RULES, as_of_ns)
    known = [one for one in reports if one.recorded_ns <= as_of_ns]
    again = join(rows, [*reports, *known], RULES, as_of_ns)
    assert (again.labelled, again.kpis) == (found.labelled, found.kpis)
    assert again.counts.fates.get(Fate.DUPLICATE, 0) == found.counts.fates.get(Fate.DUPLICATE, 0) + len(known)


def hour(time_ns: int) -> str:
    """As the lake's directories name it."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H")


def stored(row: Prediction) -> dict[str, Any]:
    """As it lies in the lake."""
    return row._asdict() | {"answered_by": row.arm, "flags": 0, "rollout_flags": 0}


def told(one: Outcome) -> dict[str, Any]:
    """As it lies in the lake."""
    return one._asdict() | {"entity_hashes": list(one.entity_hashes.items()), "kpis": list(one.kpis.items())}


def write(directory: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a file of the lake."""
    directory.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), directory / "part-g-1.parquet")


def fill(lake: Path, rows: Iterable[Prediction], reports: Iterable[Outcome]) -> None:
    """Writes a file for each model and hour, as a recorder does."""
    parts: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        parts[f"predictions/model={row.model}/hour={hour(row.time_ns)}"].append(stored(row))
    for one in reports:
        parts[f"outcomes/hour={hour(one.recorded_ns)}"].append(told(one))
    for where, found in parts.items():
        write(lake / where, PREDICTIONS if where.startswith("p") else OUTCOMES, found)


def plain(found: Joined) -> tuple[Sequence[Labelled], list[Any], Any]:
    """A result, to be compared."""
    return list(found.labelled), list(found.kpis), found.counts


SHORT: Final = {
    "churn": Rule(5 * DAY_NS, negative=True, entity="subscriber"),
    "spend": Rule(3 * DAY_NS, negative=False, entity="subscriber"),
}


def dense(chance: random.Random) -> tuple[list[Prediction], list[Outcome]]:
    """Rows that meet often: few entities, and times that are equal, at the border of a window, and around it."""

    def at() -> int:
        return NOW_NS + chance.randrange(12) * DAY_NS + chance.choice([-1, 0, 0, 0, 1, SKEW_NS])

    def hashed() -> int:
        return chance.randrange(4) * (1 << 62) + 1

    rows = [
        prediction(
            f"p{number}",
            at(),
            model=chance.choice(["churn", "churn", "spend", "fraud"]),
            arm=chance.choice(["champion", "champion", "challenger", "pinned"]),
            entity_hash=chance.choice([None, hashed(), hashed(), hashed()]),
            rollout_id=chance.choice([None, 5]),
        )
        for number in range(24)
    ]
    reports = []
    for _ in range(90):
        happened_ns = at()
        label = chance.choice([(1.0, None), (0.0, None), (None, "left"), (None, None)])
        common: dict[str, Any] = {
            "recorded_ns": happened_ns + chance.choice([0, 0, 1, DAY_NS, 2 * DAY_NS, 4 * DAY_NS]),
            "gateway_id": chance.choice("gh"),
            "label_number": label[0],
            "label_text": label[1],
        }
        name = f"o{chance.randrange(75)}"
        kpis = {kpi: float(chance.randrange(9)) for kpi in ("calls", "revenue") if chance.random() < 0.3}
        if chance.random() < 0.5:
            named = f"p{chance.randrange(27)}"
            reports.append(outcome(name, happened_ns, prediction_id=named, kpis=kpis, **common))
        else:
            model = chance.choice(["churn", "churn", "spend", "fraud"])
            reports.append(of_entity(name, happened_ns, hashed(), model=model, kpis=kpis, **common))
    return rows, reports


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(100 if STRESS else 8))
def test_duckdb_says_what_the_rules_say(tmp_path: Path, seed: int) -> None:
    """Over files of any content, at any time."""
    chance = random.Random(seed)
    rows, reports = dense(chance)
    write(tmp_path / "predictions/model=any/hour=2026-11-25T12", PREDICTIONS, map(stored, rows))
    write(tmp_path / "outcomes/hour=2026-11-25T12", OUTCOMES, map(told, reports))
    everything = join(rows, reports, SHORT, LATER_NS)
    ends = [one.arrival_ns for one in everything.labelled if one.absent]
    for as_of_ns in (LATER_NS, chance.choice(ends), chance.choice(reports).recorded_ns + PATIENCE_NS):
        expected = join(rows, reports, SHORT, as_of_ns)
        assert plain(lakes.joined(tmp_path, SHORT, as_of_ns)) == plain(expected)
    chosen = lakes.joined(tmp_path, SHORT, LATER_NS, rollout_id=5)
    assert chosen.labelled == [one for one in everything.labelled if one.prediction.rollout_id == 5]


def test_the_rows_that_duckdb_is_held_against_have_every_fate() -> None:
    """And labels that were replaced, contradicted and absent."""
    found = [join(*dense(random.Random(seed)), SHORT, NOW_NS + 14 * DAY_NS).counts for seed in range(8)]
    assert all(sum(counts.fates.get(fate, 0) for counts in found) > 3 for fate in Fate)
    assert min(sum(counts[place] for counts in found) for place in (1, 2, 3)) > 3


def test_a_lake_without_files_has_nothing_to_join(tmp_path: Path) -> None:
    """Before the first prediction, and before the first outcome."""
    assert plain(lakes.joined(tmp_path / "none", RULES, LATER_NS))[:2] == ([], [])
    fill(tmp_path, [prediction()], [])
    assert len(lakes.joined(tmp_path, RULES, LATER_NS).labelled) == 1
    assert lakes.joined(tmp_path, {}, LATER_NS).labelled == []


def test_only_what_a_caller_got_is_labelled(tmp_path: Path) -> None:
    """Neither a row without a score, nor a challenger's attempt, nor a declared fallback is a prediction."""
    good = prediction("good", entity_hash=1)._asdict() | {"answered_by": "champion", "flags": 1, "rollout_flags": 4}
    attempt = prediction("attempt", entity_hash=2)._asdict() | {
        "answered_by": "unassigned",
        "flags": 0,
        "rollout_flags": 2,
    }
    failed = prediction("failed", entity_hash=3, score=None)._asdict() | {
        "answered_by": "champion",
        "flags": 0,
        "rollout_flags": 0,
    }
    fallback = prediction("fallback", entity_hash=4)._asdict() | {
        "answered_by": "champion",
        "flags": 16,
        "rollout_flags": 0,
    }
    where = tmp_path / "predictions" / "model=churn" / f"hour={hour(NOW_NS)}"
    write(where, PREDICTIONS, [good, attempt, failed, fallback])
    assert labels(lakes.joined(tmp_path, RULES, LATER_NS)) == [("good", 0.0, True)]


def test_a_row_that_shares_another_one_s_draw_is_labelled_and_no_evidence(tmp_path: Path) -> None:
    """Of several rows of one call, only the first was assigned by a draw of its own."""
    rows = [prediction(name, entity_hash=None, rollout_id=5) for name in ("first", "follows")]
    where = tmp_path / "predictions" / "model=churn" / f"hour={hour(NOW_NS)}"
    write(where, PREDICTIONS, [stored(row) | {"rollout_flags": int(row.prediction_id == "follows")} for row in rows])
    assert len(lakes.joined(tmp_path, RULES, LATER_NS).labelled) == 2
    assert labels(lakes.joined(tmp_path, RULES, LATER_NS, rollout_id=5)) == [("first", 0.0, True)]


def test_predictions_since_a_time_are_joined_as_if_all_were(tmp_path: Path) -> None:
    """Older hours are not read, and what is asked for does not change by that."""
    rows = [prediction(f"p{day}", NOW_NS + day * DAY_NS, entity_hash=day % 3) for day in range(80)]
    reports = [of_entity(f"o{day}", NOW_NS + day * DAY_NS + 1, entity_hash=day % 5) for day in range(80)]
    fill(tmp_path, rows, reports)
    everything = lakes.joined(tmp_path, RULES, LATER_NS)
    since_ns = NOW_NS + 60 * DAY_NS
    recent = lakes.joined(tmp_path, RULES, LATER_NS, since_ns)
    assert recent.labelled == [one for one in everything.labelled if one.prediction.time_ns >= since_ns]
    assert len(recent.labelled) > 10


def document(task: str, **more: Any) -> ModelDocument:
    """A model document of a task."""
    filled = {
        "name": "churn",
        "task": task,
        "purpose": "a test",
        "owner": {"person": "ana"},
        "entities": ["subscriber"],
        "inputs": [{"request": "x", "type": "float32", "feeds": "x"}],
        "output": {"score": "y"},
    }
    return ModelDocument.model_validate(filled | more)


CALL = {"kind": "threshold", "threshold": 10.0, "hit": "call", "otherwise": "leave"}
LABELS = {"score": "y", "labels": ["basic", "plus"]}


@pytest.mark.parametrize(
    ("task", "more", "said", "number", "text", "expected"),
    [
        ("binary", {"decision": CALL}, {"decision": "call"}, 1.0, None, False),
        ("binary", {"decision": CALL}, {"decision": "leave"}, 1.0, None, True),
        ("binary", {"decision": CALL}, {"decision": "leave"}, None, "call", True),
        ("binary", {"decision": CALL}, {"decision": "leave"}, None, "elsewhere", None),
        ("binary", {}, {"score": 0.75, "decision": None}, 1.0, None, False),
        ("binary", {}, {"score": 0.25, "decision": None}, 1.0, None, True),
        ("binary", {}, {"score": 0.25, "decision": None}, None, "left", None),
        ("regression", {}, {"score": 7.5}, 9.0, None, False),
        ("regression", {}, {"score": 7.5}, 10.0, None, True),
        ("regression", {}, {"score": 7.5}, None, "much", None),
        (
            "ranking",
            {"output": LABELS, "decision": {"kind": "top_k", "k": 1}},
            {"decision": "plus"},
            None,
            "basic",
            True,
        ),
        (
            "ranking",
            {"output": LABELS, "decision": {"kind": "top_k", "k": 2}},
            {"decision": "plus"},
            None,
            "plus",
            None,
        ),
        ("anomaly", {}, {"decision": None}, 1.0, None, None),
        ("anomaly", {"decision": CALL}, {"decision": "call"}, 0.0, None, True),
        ("multiclass", {"output": LABELS, "decision": {"kind": "argmax"}}, {"decision": "plus"}, None, "plus", False),
        ("multiclass", {"output": LABELS, "decision": {"kind": "argmax"}}, {"decision": "plus"}, None, "basic", True),
        ("multiclass", {"output": LABELS, "decision": {"kind": "argmax"}}, {"decision": "plus"}, 1.0, None, None),
    ],
)
def test_a_mistake_follows_the_task(
    task: str, more: Any, said: Any, number: float | None, text: str | None, expected: bool | None
) -> None:
    """None where prediction and label cannot be compared."""
    labelled = Labelled(prediction(**said), number, text, NOW_NS, absent=False)
    assert mistaken(document(task, **more), labelled, error_above=2.0) is expected


def test_a_rollout_s_labelled_rows_come_in_the_order_of_arrival() -> None:
    """With the arm that was assigned and the weight in force, each by its own version's document."""
    rollout = {"rollout_id": 5, "weight_bps": 500, "step": 2}
    rows = [
        prediction("a", entity_hash=1, decision="leave", **rollout),
        prediction("b", entity_hash=2, decision="call", arm="challenger", version=2, **rollout),
        prediction("c", entity_hash=3, version=3, **rollout),
    ]
    reports = [outcome("1", NOW_NS + 5, prediction_id="a"), outcome("2", NOW_NS + 4, prediction_id="b")]
    found = join(rows, [*reports, outcome("3", prediction_id="c")], RULES, NOW_NS + 2 * DAY_NS)
    documents = {1: document("binary", decision=CALL), 2: document("binary", decision=CALL)}
    assert [tuple(one) for one in labelled_rows(found.labelled, documents)] == [
        ("b", 2, "challenger", 500, 2, NOW_NS + 4, False),
        ("a", 1, "champion", 500, 2, NOW_NS + 5, True),
    ]


def test_a_unit_counts_once_by_its_first_bad_row_and_by_its_first_row_in_the_step() -> None:
    """To roll back, the first mistake in the rollout; to advance, the first row in the step, bad or not."""
    rollout = {"rollout_id": 5, "arm": "challenger", "weight_bps": 500}
    rows = [
        prediction("a1", entity_hash=1, step=1, decision="call", **rollout),
        prediction("a2", NOW_NS + 1, entity_hash=1, step=2, decision="call", **rollout),
        prediction("a3", NOW_NS + 2, entity_hash=1, step=2, decision="leave", **rollout | {"weight_bps": 2_500}),
        prediction("b1", entity_hash=2, step=1, decision="leave", **rollout),
        prediction("b2", NOW_NS + 1, entity_hash=2, step=2, decision="leave", **rollout | {"weight_bps": 2_500}),
        prediction("c1", entity_hash=3, step=2, decision="leave", **rollout | {"arm": "champion"}),
    ]
    reports = [
        outcome(row.prediction_id, NOW_NS + 10 + at, prediction_id=row.prediction_id) for at, row in enumerate(rows)
    ]
    found = join(rows, reports, RULES, NOW_NS + DAY_NS)
    judged = labelled_rows(found.labelled, {1: document("binary", decision=CALL)})
    counts = counted(judged, step=2)
    assert counts.first_bad == {500: (1, 1), 2_500: (1, 0)}
    assert counts.scored == {500: (1, 1), 2_500: (1, 0)}
    assert counts.bad == {500: (0, 1), 2_500: (1, 0)}
    assert counted(judged, step=3).scored == {}
    assert counted(judged, step=2, sample_bps=3) == counted([row for row in judged if row.entity_hash != 3], step=2)


def test_a_business_result_is_bad_under_its_bound() -> None:
    """Where it was reported; where the model has no entity, the request is what counts."""
    rows = [prediction(name, entity_hash=None, rollout_id=5, weight_bps=500, step=1) for name in ("a1", "b2")]
    rows = [row._replace(prediction_id=f"{row.prediction_id:0>28}") for row in rows]
    reports = [
        outcome(f"{at}", NOW_NS + at, prediction_id=row.prediction_id, label_number=None, kpis={"revenue": value})
        for at, (row, value) in enumerate(zip(rows, (1.0, 2.0), strict=True))
    ]
    found = join(rows, reports, RULES, NOW_NS + DAY_NS)
    judged = business_rows(found.kpis, "revenue", 2.0)
    assert [(row.prediction_id[-2:], row.bad) for row in judged] == [("a1", True), ("b2", False)]
    assert business_rows(found.kpis, "calls", 2.0) == []
    assert counted(judged, step=1).scored == {500: (0, 2)}


def test_a_shadow_s_pairs_count_where_one_version_alone_was_wrong(tmp_path: Path) -> None:
    """By the labels of the rows that callers got; each entity once."""
    rows = [prediction(f"p{number}", NOW_NS + number, entity_hash=max(number, 1)) for number in range(6)]
    reports = [outcome(row.prediction_id, NOW_NS + DAY_NS, prediction_id=row.prediction_id) for row in rows[:5]]
    said = [
        ("leave", "call"),
        ("leave", "call"),
        ("call", "leave"),
        ("leave", "leave"),
        ("leave", None),
        ("leave", "call"),
    ]
    pairs = [
        Pair(row.prediction_id, 2, 0.5, shadow, 1, 0.5, other) for row, (shadow, other) in zip(rows, said, strict=True)
    ]
    fill(tmp_path, rows, reports)
    stored_pairs = [pair._asdict() | {"time_ns": NOW_NS, "rollout_id": 5, "model": "churn"} for pair in pairs]
    failed = stored_pairs[0] | {"prediction_id": "failed", "score": None}
    other = stored_pairs[0] | {"prediction_id": "elsewhere", "rollout_id": 6}
    where = tmp_path / "pairs" / "model=churn" / f"hour={hour(NOW_NS)}"
    write(where, PAIRS, [*stored_pairs, failed, other, stored_pairs[0]])
    rollout = lakes.LabelledRollout(
        "churn", 5, NOW_NS, {version: document("binary", decision=CALL) for version in (1, 2)}
    )
    assert lakes.pairs_of(tmp_path, rollout) == pairs
    found = lakes.joined(tmp_path, {"churn": RULES["churn"]}, NOW_NS + 2 * DAY_NS, NOW_NS)
    assert mistaken_alone(found.labelled, pairs, rollout.documents) == (1, 1)
    assert lakes.pairs_of(tmp_path / "none", rollout) == []


def test_a_document_says_its_rule() -> None:
    """Days are days of 24 hours, and the entity is the one that assigns arms."""
    assert rule_of(document("binary")) is None
    outcome_rule = {"label": "churned", "window_days": 30, "absence": "negative"}
    said = document("binary", outcome=outcome_rule, entities=["offer", "subscriber"], assign_by="subscriber")
    assert rule_of(said) == RULES["churn"]
