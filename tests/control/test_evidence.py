"""E-values, exactly: enumerated over every sequence, against an adversary who chooses the weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import ceiling, distribution, evidence
from gateway.contract.alone import bad_event_evidence, central_alpha, slot_alpha
from gateway.contract.evidence import Arms, Counts
from tests.control.streams import counts_at, first_bad, log_e_path, ramp, sticky

WEIGHTS = (100, 500, 2_500, 9_900)
Test = Callable[[Counts], float]


def odds(w_bps: int, r: float) -> float:
    """P(challenger | bad event)."""
    w = w_bps / 10_000
    return w * r / (w * r + 1 - w)


def worst_mean(test: Test, r: float, events: int) -> float:
    """The largest mean of the e-value after so many events that any choice of weights by the past can reach."""

    @cache
    def value(counts: tuple[tuple[int, Arms], ...], left: int) -> float:
        held = dict(counts)
        if not left:
            return math.exp(test(held))
        found = []
        for w in WEIGHTS:
            after = [tuple(evidence.counted(held, w, arms).items()) for arms in (Arms(1, 0), Arms(0, 1))]
            p = odds(w, r)
            found.append(p * value(after[0], left - 1) + (1 - p) * value(after[1], left - 1))
        return max(found)

    return value((), events)


@pytest.mark.parametrize("rho", [1.0, 1.1, 2.0])
def test_evidence_of_harm_is_a_fair_bet_at_the_boundary_whatever_the_weights(rho: float) -> None:
    """Every sequence of 6 events and every way to choose the weights by the past is enumerated: the mean is 1."""
    assert worst_mean(lambda counts: evidence.harm(counts, rho), rho, 6) == pytest.approx(1, abs=1e-7)
    assert worst_mean(lambda counts: evidence.harm(counts, rho), 0.7 * rho, 6) <= 1 + 1e-7


@pytest.mark.parametrize("margin", [1.25, 1.5, 2.0])
def test_evidence_of_safety_is_a_fair_bet_at_the_margin_whatever_the_weights(margin: float) -> None:
    """Likewise, and worse than the margin never pays."""
    assert worst_mean(lambda counts: evidence.safety(counts, margin), margin, 6) == pytest.approx(1, abs=1e-7)
    assert worst_mean(lambda counts: evidence.safety(counts, margin), 1.4 * margin, 6) <= 1 + 1e-7


def test_evidence_of_change_is_fair_anywhere_between_its_bounds() -> None:
    """Both directions at once: a rate up to rho times up or down never pays."""
    for r in (1 / 1.5, 0.8, 1.0, 1.2, 1.5):
        assert worst_mean(lambda counts: evidence.change(counts, 1.5), r, 5) <= 1 + 1e-7


def test_two_sided_bets_are_fair_under_equality() -> None:
    """The router's self-test over every sequence, and the shift of scores over every sequence of arms and bins."""
    assert worst_mean(distribution.sample_ratio, 1.0, 6) == pytest.approx(1, abs=1e-7)
    shares, w = (0.5, 0.3, 0.2), 0.25
    mean = 0.0
    for steps in itertools.product(itertools.product(range(3), (0, 1)), repeat=4):
        bins: list[Counts] = [{}, {}, {}]
        chance = 1.0
        for index, arm in steps:
            bins[index] = evidence.counted(bins[index], 2_500, Arms(arm, 1 - arm))
            chance *= shares[index] * (w if arm else 1 - w)
        mean += chance * math.exp(distribution.shift(bins))
    assert mean == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("events", range(1, 13))
def test_the_mean_over_all_paths_of_up_to_twelve_events_is_one(events: int) -> None:
    """All 2^n paths of a ramp, the e-value taken from the counts of each."""
    weights = ramp(events, 100, 500, 2_500, 5_000)
    mean = crossed = 0.0
    for arms in itertools.product((0, 1), repeat=events):
        counts: Counts = {}
        chance, top = 1.0, 0.0
        for arm, w in zip(arms, weights, strict=True):
            counts = evidence.counted(counts, int(w), Arms(arm, 1 - arm))
            chance *= odds(int(w), 1.0) if arm else 1 - odds(int(w), 1.0)
            top = max(top, evidence.harm(counts))
        mean += chance * math.exp(evidence.harm(counts))
        crossed += chance if evidence.reached(top, 0.01) else 0.0
    assert mean == pytest.approx(1, abs=1e-7)
    assert crossed <= 0.01


@pytest.mark.parametrize("rate", [0.05, 0.08, 0.3])
def test_the_ceiling_is_a_fair_bet_at_the_ceiling_and_a_bad_one_above_it(rate: float) -> None:
    """All counts of 40 rows, by their binomial chances."""
    rows, limit = 40, 0.05
    mean = math.fsum(
        math.comb(rows, bad) * rate**bad * (1 - rate) ** (rows - bad) * math.exp(ceiling.below(rows, bad, limit))
        for bad in range(rows + 1)
    )
    assert mean <= 1 + 1e-7
    assert rate > limit or mean == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("both", [0.0, 0.02, 0.05])
def test_mirrored_pairs_in_which_both_versions_are_slow_cost_no_validity(both: float) -> None:
    """Every sequence of five pairs, with the versions' slowness dependent to different degrees."""
    slow = 0.05
    outcomes = {(1, 1): both, (1, 0): slow - both, (0, 1): slow - both, (0, 0): 1 - 2 * slow + both}
    mean = 0.0
    for pairs in itertools.product(outcomes, repeat=5):
        arms = Arms(sum(a for a, _ in pairs), sum(b for _, b in pairs))
        mean += math.prod(outcomes[pair] for pair in pairs) * math.exp(distribution.latency([arms], 1.0))
    assert mean <= 1 + 1e-7
    assert both or mean == pytest.approx(1, abs=1e-7)


def test_labelled_pairs_are_a_fair_bet_when_either_is_as_often_wrong() -> None:
    """McNemar's test: discordant pairs are fair coins under the null."""
    mean = math.fsum(math.comb(12, k) / 2**12 * math.exp(distribution.paired(k, 12 - k)) for k in range(13))
    assert mean == pytest.approx(1, abs=1e-7)


arms = st.builds(Arms, st.integers(0, 500), st.integers(0, 500))
counts_of_any_kind = st.dictionaries(st.sampled_from((1, 100, 500, 2_500, 5_000, 9_900)), arms, max_size=5)


@given(counts_of_any_kind, counts_of_any_kind)
def test_evidence_does_not_depend_on_the_order_in_which_parts_arrive(one: Counts, other: Counts) -> None:
    """Merging is commutative, and so is everything that is said of the sum."""
    ours, theirs = evidence.merged([one, other]), evidence.merged([other, one])
    assert ours == theirs
    assert evidence.harm(ours) == evidence.harm(dict(reversed(theirs.items())))


@given(counts_of_any_kind)
def test_more_bad_events_in_the_challenger_are_more_evidence_of_harm_and_less_of_safety(counts: Counts) -> None:
    """One more of them, at any weight."""
    worse = evidence.counted(counts, 500, Arms(1, 0))
    assert evidence.harm(worse) > evidence.harm(counts)
    assert evidence.safety(worse, 1.5) < evidence.safety(counts, 1.5)


@given(st.integers(0, 5_000), st.floats(0.001, 0.3))
def test_the_rates_bound_lies_under_a_ceiling_exactly_when_its_gate_passes(rows: int, limit: float) -> None:
    """The number that people see and the decision are the same statement."""
    bad = rows // 100
    passes = evidence.reached(ceiling.below(rows, bad, limit), 0.05)
    bound = ceiling.upper_bound(rows, bad, 0.05)
    assert passes == (bound <= limit) or bound == pytest.approx(limit, rel=1e-6)


def test_the_ratios_bounds_invert_the_tests_of_harm_and_safety() -> None:
    """Just inside a bound its test does not reject, and just outside it does."""
    counts = {500: Arms(40, 160), 2_500: Arms(30, 60)}
    low, high = evidence.ratio_bounds(counts, 0.05)
    assert 1 < low < high
    assert evidence.reached(evidence.harm(counts, low * 0.99), 0.05)
    assert not evidence.reached(evidence.harm(counts, low * 1.01), 0.05)
    assert evidence.reached(evidence.safety(counts, high * 1.01), 0.05)
    assert not evidence.reached(evidence.safety(counts, high * 0.99), 0.05)
    assert evidence.ratio_bounds({}, 0.05) == (0.0, math.inf)


def test_clean_rows_pass_a_ceiling_of_half_a_percent_after_some_seven_hundred() -> None:
    """And one of a tenth of a percent after some three and a half thousand."""
    assert 598 < ceiling.clean_rows_needed(0.005, 0.05) <= 700
    assert 3_000 < ceiling.clean_rows_needed(0.001, 0.05) <= 3_500


def test_no_events_say_nothing() -> None:
    """An e-value of 1 everywhere."""
    assert evidence.harm({}) == evidence.safety({}, 1.5) == evidence.change({}, 1.5) == 0
    assert distribution.shift([]) == distribution.sample_ratio({}) == distribution.paired(0, 0) == 0
    assert distribution.latency([], 1.1) == ceiling.below(0, 0, 0.005) == 0


def test_where_one_arm_has_all_traffic_its_bad_events_say_nothing() -> None:
    """At a weight of nothing or everything the arm is no bet."""
    assert evidence.harm({10_000: Arms(50, 0), 0: Arms(0, 50)}) == pytest.approx(0, abs=1e-8)


def test_one_failed_batch_counted_as_sixteen_failures_would_be_sixteen_thousand_to_one() -> None:
    """Why a run that fails is repeated row by row."""
    assert math.exp(evidence.harm({5_000: Arms(16, 0)})) > 16_000
    assert math.exp(evidence.harm({5_000: Arms(1, 0)})) < 2


def test_a_score_falls_into_the_bin_of_its_decile_and_anything_not_finite_into_the_last() -> None:
    """Edges are the champion's, frozen; without finite scores there are none."""
    edges = distribution.score_edges([float(k) for k in range(100)] + [math.nan])
    assert edges == tuple(float(k) for k in range(10, 100, 10))
    assert [distribution.score_bin(edges, score) for score in (-5, 9.9, 10, 95, math.nan, math.inf)] == [
        0,
        0,
        1,
        9,
        10,
        10,
    ]
    assert distribution.score_edges([math.nan]) == ()


def test_latency_thresholds_are_the_champions_quantiles_with_slack() -> None:
    """A version that is slower by less than the slack is beyond them no more often than the champion's noise is."""
    thresholds = distribution.latency_thresholds_ns(range(1, 101), 1.2, None)
    assert thresholds == (60, 108, 119, 238)
    assert distribution.latency_thresholds_ns([100], 1.0, 5) == (100, 100, 100, 5)
    assert distribution.slow_at(thresholds, 110) == [True, True, False, False]


def test_the_vectorised_path_is_the_e_value_of_the_counts_so_far() -> None:
    """The simulations' arithmetic against the contract's, at every event."""
    stream = sticky(np.random.default_rng(3), 500, ramp(4_000, 100, 2_500, 5_000), 0.05, 3.0)
    at = first_bad(stream)
    for rho, multiples, test in ((1.1, evidence.HARMFUL, evidence.harm), (1.5, evidence.SAFE, evidence.safety)):
        found = log_e_path(stream.challenger[at], stream.weight_bps[at], rho, multiples)
        for k in (0, 5, len(at) - 1):
            assert found[k] == pytest.approx(test(counts_at(stream, at[: k + 1]), rho), abs=1e-7)


def test_the_parts_of_those_who_judge_sum_to_the_metrics_alpha() -> None:
    """The control plane's and those of all slots, whether or not a gateway is connected in each."""
    assert central_alpha(0.004) + 8 * slot_alpha(0.004, 8) == pytest.approx(0.004)
    assert evidence.reached(bad_event_evidence({500: Arms(6, 0)}, 1.1, two_sided=False), slot_alpha(0.0035, 8))
    assert not evidence.reached(bad_event_evidence({500: Arms(1, 5)}, 1.1, two_sided=False), slot_alpha(0.0035, 8))
