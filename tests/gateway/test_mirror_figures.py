"""The mirror's arithmetic, without a process."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gateway.contract.distribution import latency_thresholds_ns, score_edges
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Reason
from gateway.contract.routing import is_challenger
from gateway.journal import ROLLOUT_STANDS_IN, ROW, Block
from gateway.mirror.compare import MOST_VALUES, Comparison, stability
from gateway.mirror.divergence import Divergence, Flip, Scored, flip
from gateway.mirror.quantiles import FINENESS, Quantiles
from gateway.mirror.sampling import wanted_rows
from gateway.record import REASON_NUMBERS
from gateway.request import Arm
from gateway.wire.outcomes import entity_hash
from gateway.wire.routes import Shadow, parse_routes
from tests.gateway import tiny
from tests.gateway.mirroring import shadow, shadowed

CHANCE = np.random.default_rng(7)
LIMITS = (1.2, 0)


def scored(score: float, decision: str = "", run_ns: int = 1_000) -> Scored:
    """A row that a version scored."""
    return Scored(score, decision, None, run_ns)


def failed(reason: Reason) -> Scored:
    """A row that it did not."""
    return Scored(math.nan, "", reason, 0)


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_quantiles_are_right_to_the_width_of_a_bucket(percent: int) -> None:
    """Of numbers that spread over many sizes."""
    values = CHANCE.lognormal(10, 2, 10_000)
    found = Quantiles()
    for value in values:
        found.add(float(value))
    again = Quantiles(json.loads(json.dumps(found.saved())))
    expected = float(np.percentile(values, percent, method="inverted_cdf"))
    assert abs(math.log2(again.at(percent) / expected)) <= 1 / FINENESS
    assert Quantiles().at(percent) == 0


def test_nothing_but_zeros_has_the_quantile_zero() -> None:
    """And zeros count where there are others."""
    found = Quantiles(zeros=99)
    assert found.at(99) == 0
    found.add(5.0)
    found.add(5.0)
    assert found.at(99) == pytest.approx(5, rel=0.03)


def test_correlation_and_differences_are_those_of_numpy() -> None:
    """Also where the scores are large and differ little, and when the totals were saved in between."""
    other = 1e6 + CHANCE.normal(size=3_000)
    mine = other + CHANCE.normal(0.5, 0.3, 3_000)
    totals = Divergence()
    for index, (a, b) in enumerate(zip(mine.tolist(), other.tolist(), strict=True)):
        if index == 1_000:
            totals = Divergence(json.loads(json.dumps(totals.saved())))
        totals.add(scored(a), scored(b), Flip())
    figures = totals.figures()
    assert figures["correlation"] == pytest.approx(np.corrcoef(mine, other)[0, 1], rel=1e-6)
    assert figures["mean_difference"] == pytest.approx(float(np.mean(mine - other)), rel=1e-6)
    assert figures["mean_absolute_difference"] == pytest.approx(float(np.mean(np.abs(mine - other))), rel=1e-6)
    assert figures["p99_absolute_difference"] == pytest.approx(np.percentile(np.abs(mine - other), 99), rel=0.03)


def test_constant_scores_have_no_correlation() -> None:
    """Nothing varies, so nothing varies together."""
    totals = Divergence()
    for _ in range(3):
        totals.add(scored(2.0), scored(2.0), Flip())
    assert totals.figures()["correlation"] is None


def decider(kind: str) -> ModelDocument:
    """A document that decides."""
    base = {**tiny.DOCUMENT.model_dump(mode="json")}
    if kind == "threshold":
        decision = {"kind": "threshold", "threshold": 0.5, "hit": "call", "otherwise": "leave"}
        return ModelDocument.model_validate({**base, "task": "binary", "decision": decision})
    output = {"score": "y", "labels": ["a", "b"]}
    return ModelDocument.model_validate(
        {**base, "task": "multiclass", "output": output, "decision": {"kind": "argmax"}}
    )


def test_flips_have_a_direction_where_a_decision_is_looked_for() -> None:
    """Otherwise they are all of one kind."""
    by_threshold, by_class = decider("threshold"), decider("argmax")
    assert flip((by_threshold, "call"), (by_threshold, "leave")) == Flip(up=True)
    assert flip((by_threshold, "leave"), (by_threshold, "call")) == Flip(down=True)
    assert flip((by_threshold, "call"), (by_threshold, "call")) == Flip()
    assert flip((by_class, "a"), (by_class, "b")) == flip((by_class, "b"), (by_class, "a")) == Flip(down=True)
    assert flip((tiny.DOCUMENT, ""), (tiny.DOCUMENT, "")) == Flip()


def compared(n: int, comparison: Comparison | None = None) -> Comparison:
    """A comparison after some pairs whose control takes n, and whose shadow twice as long."""
    comparison = comparison or Comparison()
    for index in range(n):
        comparison.add(
            (scored(index + 1.0, run_ns=2_000 + index), scored(float(index), run_ns=1_000 + index)), Flip(), {}, LIMITS
        )
    return comparison


def test_latency_is_counted_beyond_thresholds_that_the_first_runs_freeze() -> None:
    """What they are made of is not counted itself."""
    comparison = compared(200)
    assert comparison.report()["slow_shadow"] == [0, 0, 0, 0]
    thresholds = json.loads(comparison.report()["figures_json"])["thresholds_ns"]
    assert thresholds == list(latency_thresholds_ns(range(1_000, 1_200), 1.2, None))
    compared(100, comparison)
    assert comparison.report()["slow_shadow"] == [100, 100, 100, 0]
    assert comparison.report()["slow_other"] == [0, 0, 0, 0]
    assert compared(199).report()["slow_shadow"] == []


def test_scores_are_counted_in_bins_that_the_first_pairs_freeze() -> None:
    """Nine inner deciles of the control, and these pairs count."""
    assert compared(999).report()["score_edges"] == []
    comparison = compared(1_000)
    report = comparison.report()
    assert report["score_edges"] == list(score_edges([float(index) for index in range(1_000)]))
    bins = json.loads(report["figures_json"])["score_bins"]
    assert sum(bins["shadow"]) == sum(bins["other"]) == 1_000
    assert bins["other"] == [100] * 10 + [0]


def test_a_comparison_goes_on_from_what_was_saved() -> None:
    """As if there had been no restart; rows that waited are counted as dropped."""
    whole = compared(1_500)
    part = compared(700)
    again = Comparison(json.loads(json.dumps(part.saved(waiting=0))))
    for index in range(700, 1_500):
        again.add(
            (scored(index + 1.0, run_ns=2_000 + index), scored(float(index), run_ns=1_000 + index)), Flip(), {}, LIMITS
        )
    assert again.report() == whole.report()
    assert Comparison(part.saved(waiting=7)).report()["dropped"] == 7


def test_what_the_other_fails_on_counts_for_nobody() -> None:
    """Exceptions and scores that are not finite are the shadow's alone."""
    comparison = Comparison()
    for mine, other in (
        (failed(Reason.MODEL_FAILED), scored(1)),
        (failed(Reason.OUTPUT_REJECTED), scored(1)),
        (failed(Reason.SCORE_NOT_FINITE), scored(1)),
        (failed(Reason.SCORE_NOT_FINITE), failed(Reason.SCORE_NOT_FINITE)),
        (scored(1), failed(Reason.MODEL_FAILED)),
        (scored(1), scored(1)),
    ):
        comparison.add((mine, other), Flip(), {}, LIMITS)
    report = comparison.report()
    assert (report["pairs"], report["exceptions"], report["non_finite"]) == (1, 2, 1)


def test_segments_are_told_apart_up_to_a_number_of_values() -> None:
    """A column that turns out to be a key does not fill the report."""
    comparison = Comparison()
    for index in range(3 * MOST_VALUES):
        comparison.add((scored(1), scored(1)), Flip(), {"region": f"r{index}"}, LIMITS)
    figures = json.loads(comparison.report()["figures_json"])["segments"]["region"]
    assert len(figures) == MOST_VALUES + 1
    assert figures["OTHER"]["pairs"] == 2 * MOST_VALUES


def test_a_histogram_is_stable_against_itself() -> None:
    """And less so the further it moves."""
    assert stability([10, 20, 30], [10, 20, 30]) == 0
    assert 0 < stability([12, 20, 28], [10, 20, 30]) < stability([30, 20, 10], [10, 20, 30])


def block(n: int, **fields: object) -> Block:
    """Rows of as many entities that the champion answered."""
    rows = np.zeros(n, ROW)
    rows["arm"] = rows["answered_by"] = Arm.CHAMPION
    rows["entity_hash"] = [entity_hash(f"S{index}".encode()) for index in range(n)]
    for name, values in fields.items():
        rows[name] = values
    return Block(tiny.MODEL, 1, 10, 0, 0, (0,) * 6, rows, (), prefix="00" * 8)


def sampled(rollout_id: int = 9, **more: int) -> Shadow:
    """A shadow."""
    table = shadowed(shadow(rollout_id, tiny.version(2), **more))
    return parse_routes(table.SerializeToString()).shadows[tiny.MODEL][0]


def test_the_sample_is_by_entity_and_has_nothing_to_do_with_the_arm() -> None:
    """The same entities each time, others in another rollout, and as many of either arm."""
    rows = block(4_000)
    found = set(wanted_rows(rows, sampled(mirrored_bps=2_500)))
    assert found == set(wanted_rows(rows, sampled(mirrored_bps=2_500)))
    assert abs(len(found) - 1_000) < 120
    assert abs(len(found & set(wanted_rows(rows, sampled(8, mirrored_bps=2_500)))) - 250) < 70
    challengers = {index for index in range(4_000) if is_challenger(b"salt", f"S{index}".encode(), 5_000)}
    assert abs(len(found & challengers) / len(found) - 0.5) < 0.06
    assert wanted_rows(rows, sampled()) == list(range(4_000))


def test_rows_without_an_entity_are_sampled_one_by_one() -> None:
    """By the id of the prediction."""
    found = wanted_rows(block(4_000, entity_hash=0), sampled(mirrored_bps=2_500))
    assert abs(len(found) - 1_000) < 120


def test_rows_that_prove_nothing_are_left_out() -> None:
    """Of named versions, of stand-ins, of stopped models, and those that a caller sent wrong."""
    refused, broken = REASON_NUMBERS[Reason.INPUT_NOT_FINITE], REASON_NUMBERS[Reason.MODEL_FAILED]
    rows = block(
        6,
        arm=[Arm.PINNED, *[Arm.CHALLENGER] * 5],
        rollout_flags=[0, ROLLOUT_STANDS_IN, 0, 0, 0, 0],
        flags=[0, 0, 16, 0, 0, 0],
        reason=[0, 0, 0, refused, broken, 0],
    )
    assert wanted_rows(rows, sampled()) == [4, 5]
    assert wanted_rows(rows, sampled(rollout_id=11)) == []
