"""What a gateway says of each model's last hour: an exact count of rows, an estimate of entities, and little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.errors import Reason
from gateway.contract.population import population, seen_of
from gateway.journal import ROLLOUT_REPEATED, ROLLOUT_STANDS_IN, ROW, STAGES, Block
from gateway.record import REASON_NUMBERS
from gateway.request import Arm
from gateway.traffic import FRESH_NS, MINUTE_NS, MOST_ENTITIES, MOST_MODELS, SECOND_NS, Traffic

NOON_NS = 1_000_000 * MINUTE_NS


def block(n: int = 1, at_ns: int = NOON_NS, model: str = "churn", **fields: Any) -> Block:
    """A block of n rows that are alike, or that differ where an array is given."""
    rows = np.zeros(n, ROW)
    rows["arm"], rows["decision"] = Arm.CHAMPION, -1
    for name, value in fields.items():
        rows[name] = value
    return Block(model, 1, 7, 3, at_ns, (1_500,) * len(STAGES), rows, [])


def of(reason: Reason) -> int:
    """The journal's number of a reason."""
    return REASON_NUMBERS[reason]


def only(traffic: Traffic, now_ns: int) -> dict[str, Any]:
    """What is said of the one model."""
    (found,) = traffic.lately(now_ns)
    return found


def test_rows_are_counted_by_what_was_bad_about_them() -> None:
    """What a version was not asked for, or tried in vain before the control answered, is none of them."""
    traffic = Traffic()
    traffic.add(
        [
            block(70, decision=0),
            block(10, reason=of(Reason.MODEL_FAILED)),
            block(5, reason=of(Reason.SCORE_NOT_FINITE)),
            block(5, reason=of(Reason.FEATURE_MISSING)),
            block(10, arm=Arm.CHALLENGER, rollout_flags=ROLLOUT_STANDS_IN),
            block(10, arm=Arm.CHALLENGER, rollout_flags=ROLLOUT_REPEATED, reason=of(Reason.MODEL_FAILED)),
            block(10, arm=Arm.PINNED),
            block(10, reason=of(Reason.OVERLOADED)),
            block(10, reason=60_000),
        ]
    )
    found = only(traffic, NOON_NS + 10 * SECOND_NS)
    assert found["bad_rates"] == {"errors": 0.1, "non_finite": 0.05, "rejected": 0.05, "decisions": 0.7}
    assert (found["recent_rows"], found["recent_failed"]) == (100, 20)
    assert (found["earlier_rows"], found["earlier_failed"]) == (0, 0)
    assert found["rows_per_s"] == 10.0
    assert found["entities_per_hour"] == 36_000, "rows without an entity are units of their own"


def test_the_last_minutes_are_told_apart_and_the_hour_ends() -> None:
    """By the time at which rows were journalled, whenever they are read."""
    traffic = Traffic()
    for minute in range(60):
        traffic.add([block(10, NOON_NS + minute * MINUTE_NS), block(2, NOON_NS + minute * MINUTE_NS, reason=1)])
    last_ns = NOON_NS + 59 * MINUTE_NS
    found = only(traffic, last_ns)
    assert (found["recent_rows"], found["earlier_rows"]) == (50, 550)
    assert only(traffic, last_ns + 30 * MINUTE_NS)["earlier_rows"] == 300
    assert traffic.lately(last_ns + 61 * MINUTE_NS) == []


@pytest.mark.parametrize("entities", [100, 3_000, 50_000])
def test_distinct_entities_are_estimated_from_a_sample(entities: int) -> None:
    """However many there are, no more than a fixed number is remembered; a repeated call is of no new entity."""
    hashes = np.random.default_rng(1).integers(1, 1 << 64, entities, dtype=np.uint64)
    traffic = Traffic()
    for minute in range(60):
        drawn = np.random.default_rng(minute).choice(hashes, entities // 10)
        traffic.add([block(len(drawn), NOON_NS + minute * MINUTE_NS, entity_hash=drawn)])
    found = only(traffic, NOON_NS + 60 * MINUTE_NS - 1)
    assert found["entities_per_hour"] == pytest.approx(entities, rel=0.08)
    assert len(traffic._models["churn"]._entities) <= MOST_ENTITIES


def test_a_short_time_is_no_proof_of_few_entities() -> None:
    """Two minutes reach fewer than an hour will: what is said is the hour's."""
    hashes = np.random.default_rng(1).integers(1, 1 << 64, 2_000, dtype=np.uint64)
    traffic = Traffic()
    traffic.add([block(500, NOON_NS, entity_hash=np.random.default_rng(2).choice(hashes, 500))])
    traffic.add([block(500, NOON_NS + MINUTE_NS, entity_hash=np.random.default_rng(3).choice(hashes, 500))])
    found = only(traffic, NOON_NS + 2 * MINUTE_NS)
    assert found["entities_per_hour"] == pytest.approx(2_000, rel=0.15)


def test_models_are_bounded_and_an_answer_is_given_again_for_some_seconds() -> None:
    """Names that come and go cost nothing for long; what goes up does not differ with every row."""
    traffic = Traffic()
    traffic.add([block(model=f"m{index}") for index in range(MOST_MODELS + 5)])
    said = traffic.lately(NOON_NS)
    assert len(said) == MOST_MODELS
    traffic.add([block(100, model="m100")])
    assert traffic.lately(NOON_NS + FRESH_NS - 1) is said
    assert traffic.lately(NOON_NS + FRESH_NS) != said


@given(st.integers(2, 10**6), st.integers(2, 10**7))
def test_a_population_is_found_from_what_its_calls_reach(callers: int, calls: int) -> None:
    """Where enough of them came twice to tell."""
    seen = seen_of(callers, calls)
    found = population(calls, seen)
    assert seen_of(found, calls) == pytest.approx(seen, rel=0.002)
