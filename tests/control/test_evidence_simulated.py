"""What the evidence promises, on simulated traffic: how often it errs, how fast it is, what breaks without its rules.

Seeds are fixed. An ordinary run does a tenth of the runs of `STRESS=1`; each prints its rate with its interval (-s).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from gateway.contract import distribution
from gateway.contract.alone import central_alpha, slot_alpha
from gateway.contract.ceiling import SHARES, SUPPOSED
from gateway.contract.evidence import HARMFUL, SAFE, Arms, threshold
from tests.control.streams import (
    RUNS,
    Ints,
    Rate,
    Stream,
    consistent,
    every_bad,
    first_bad,
    first_scored,
    log_e_path,
    path,
    per_request,
    ramp,
    sticky,
)
from tests.support import STRESS

pytestmark = pytest.mark.stress

ALPHA = 0.01
BETA = 0.05
LINE = threshold(ALPHA)
RULES = {"first bad event": first_bad, "every bad event": every_bad}


def hour(n: int) -> np.ndarray:
    """The rate over two days: half as high at night, half as high again by day."""
    return 1 + 0.5 * np.sin(np.linspace(0, 4 * math.pi, n))


def incident(n: int) -> np.ndarray:
    """A tenth of the time, in the middle, both arms are ten times as bad."""
    found = np.ones(n)
    found[n // 2 : n // 2 + n // 10] = 10.0
    return found


RAMP = (100, 500, 2_500, 5_000)
N = 60_000


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("each request anew", lambda rng: per_request(rng, ramp(N, *RAMP), 0.01)),
        ("a day, and an incident", lambda rng: per_request(rng, ramp(N, *RAMP), 0.01 * hour(N) * incident(N))),
        ("sticky entities", lambda rng: sticky(rng, 3_000, ramp(N, *RAMP), 0.01 * hour(N) * incident(N))),
        ("entities that always fail", lambda rng: sticky(rng, 3_000, ramp(N, *RAMP), rng.random(3_000) < 0.05)),
        ("weights up and down", lambda rng: per_request(rng, rng.permutation(ramp(N, *RAMP)), 0.01)),
    ],
)
def test_a_sound_version_is_rolled_back_at_most_as_often_as_alpha(
    name: str, draw: Callable[[np.random.Generator], Stream]
) -> None:
    """Looked at after every bad event, whatever the hour, an incident in both arms, or a ramp."""
    hits = 0
    for run in range(RUNS):
        stream = draw(np.random.default_rng((1, run)))
        hits += bool(path(stream, first_bad(stream)).max() >= LINE)
    assert consistent(Rate(hits, RUNS), ALPHA)


@pytest.mark.parametrize("greedy", [True, False])
def test_no_choice_of_weights_by_past_evidence_makes_false_rollbacks_more_frequent(greedy: bool) -> None:
    """An adversary sees each bad event's arm and sets the next weight: to gamble when behind, or to press ahead."""
    runs, events = 10 * RUNS, 400
    rng = np.random.default_rng(2)
    sums = np.zeros((runs, len(HARMFUL), 1))
    c = np.array(HARMFUL)[None, :]
    value, hit = np.zeros(runs), np.zeros(runs, bool)
    for _ in range(events):
        w = np.where((value > 0) == greedy, 0.5, 0.01)[:, None]
        x = rng.random((runs, 1)) < w
        sums[:, :, 0] += x * np.log(c) - np.log(w * c + 1 - w)
        top = sums[:, :, 0].max(axis=1)
        value = top + np.log(np.exp(sums[:, :, 0] - top[:, None]).mean(axis=1))
        hit |= value >= LINE
    assert consistent(Rate(int(hit.sum()), runs), ALPHA)


@pytest.mark.parametrize("better", [0.2, 0.5])
def test_a_better_version_is_not_rolled_back_when_the_champions_entities_run_dry(better: float) -> None:
    """With 100 calls per entity, the champion's have had their first bad event when the weight rises."""
    hits = 0
    for run in range(RUNS):
        stream = sticky(np.random.default_rng((3, run)), 400, ramp(40_000, *RAMP), 0.03, better)
        hits += bool(path(stream, first_bad(stream)).max() >= LINE)
    assert consistent(Rate(hits, RUNS), ALPHA)


@pytest.mark.parametrize("rule", RULES)
def test_counting_every_bad_event_of_an_entity_rolls_sound_versions_back(rule: str) -> None:
    """The right rule holds alpha where some entities always fail; the mutated one breaks it."""
    hits = 0
    for run in range(RUNS):
        rng = np.random.default_rng((4, run))
        stream = sticky(rng, 300, ramp(30_000, 500, 2_500), rng.random(300) < 0.1)
        hits += bool(path(stream, RULES[rule](stream)).max() >= LINE)
    found = Rate(hits, RUNS)
    assert consistent(found, ALPHA) == (rule == "first bad event")
    assert (found.low > 0.2) == (rule == "every bad event")


def advance_by(rule: str, stream: Stream) -> Ints:
    """Rows whose bad ones count towards safety."""
    if rule == "first scored row":
        at = first_scored(stream)
        return at[stream.bad[at]]
    return first_bad(stream)


@pytest.mark.parametrize("rule", ["first scored row", "first bad event"])
@pytest.mark.parametrize("margin", [1.25, 2.0])
def test_advancing_by_first_bad_events_promotes_harm(rule: str, margin: float) -> None:
    """100 calls per entity and harm exactly at the margin: by first scored rows at most beta pass; by first bad events
    the harmed arm runs dry, and nearly all of them do."""
    hits = 0
    for run in range(RUNS):
        stream = sticky(np.random.default_rng((5, run)), 4_000, ramp(400_000, 5_000), 0.04, margin)
        hits += bool(path(stream, advance_by(rule, stream), margin, SAFE).max() >= threshold(BETA))
    found = Rate(hits, RUNS)
    assert consistent(found, BETA) == (rule == "first scored row")
    assert (found.low > 0.3) == (rule == "first bad event")


def step_passes(rng: np.random.Generator, challenger: np.ndarray, frailty: np.ndarray, weight: int) -> bool:
    """Whether a step of half as many bad events again passes a gate that must keep that out. The same entities are bad
    in every step."""
    order = rng.permutation(len(frailty))
    mine = order[(frailty < 0.04 * np.where(challenger, 1.5, 1.0))[order]]
    found = log_e_path(challenger[mine], np.full(len(mine), weight), 1.5, SAFE)
    return bool(found.max() >= threshold(BETA))


def test_promotion_of_harm_through_all_steps_stays_under_beta() -> None:
    """Each step starts its evidence anew, for entities that had their place in the last one."""
    hits, runs = 0, 2 * RUNS
    for run in range(runs):
        rng = np.random.default_rng((6, run))
        bucket, frailty = rng.integers(0, 10_000, 8_000), rng.random(8_000)
        hits += all(step_passes(rng, bucket < weight, frailty, weight) for weight in (500, 2_500, 5_000))
    assert consistent(Rate(hits, runs), BETA)


@pytest.mark.parametrize("rule", ["one tally", "multiplied"])
def test_multiplying_evidence_that_gateways_keep_rolls_sound_versions_back(rule: str) -> None:
    """Entities reach any of 8 gateways: kept once over all of them alpha holds, multiplied it does not."""
    hits = 0
    for run in range(RUNS):
        rng = np.random.default_rng((7, run))
        stream = sticky(rng, 400, ramp(20_000, 500, 2_500), rng.random(400) < 0.2)
        if rule == "multiplied":  # the sum of what each gateway counted once is what its factors multiply to
            stream = stream._replace(entity=8 * stream.entity + rng.integers(0, 8, len(stream.bad)))
        hits += bool(path(stream, first_bad(stream)).max() >= LINE)
    found = Rate(hits, RUNS)
    assert consistent(found, ALPHA) == (rule == "one tally")


@pytest.mark.parametrize("restarts", [0, 60])
def test_forgetting_evidence_at_a_restart_spends_alpha_again(restarts: int) -> None:
    """Kept over restarts alpha holds; begun anew at each of 60 it does not."""
    hits = 0
    for run in range(RUNS):
        stream = sticky(np.random.default_rng((8, run)), 4_000, ramp(120_000, 500), 0.05)
        parts = np.array_split(np.arange(len(stream.bad)), restarts + 1)
        lives = [Stream(*(column[part] for column in stream)) for part in parts]
        hits += any(path(life, first_bad(life)).max() >= LINE for life in lives)
    found = Rate(hits, RUNS)
    assert consistent(found, ALPHA) == (restarts == 0)


def test_control_plane_and_gateways_together_err_at_most_as_often_as_alpha() -> None:
    """Any of eight gateways alone, on its own events, or the control plane on all of them."""
    hits = 0
    for run in range(RUNS):
        rng = np.random.default_rng((9, run))
        stream = sticky(rng, 2_000, ramp(60_000, *RAMP), 0.02)
        gateway = rng.integers(0, 8, len(stream.bad))
        alone = [Stream(*(column[gateway == g] for column in stream)) for g in range(8)]
        hits += bool(
            path(stream, first_bad(stream)).max() >= threshold(central_alpha(ALPHA))
            or any(path(part, first_bad(part)).max() >= threshold(slot_alpha(ALPHA, 8)) for part in alone)
        )
    assert consistent(Rate(hits, RUNS), ALPHA)


def ceiling_path(bad: np.ndarray, limit: float) -> np.ndarray:
    """The ceiling's log e-value after each row."""
    c, shares = np.array(SUPPOSED)[:, None], np.array(SHARES)[:, None]
    sums = np.cumsum(np.where(bad, np.log(c), np.log1p(-c * limit) - np.log1p(-limit)), axis=1)
    top = sums.max(axis=0)
    return np.asarray(top + np.log((shares * np.exp(sums - top)).sum(axis=0)))


def test_a_rate_at_the_ceiling_passes_it_at_most_as_often_as_beta() -> None:
    """Looked at after every row of 20,000."""
    rng = np.random.default_rng(10)
    hits = sum(bool(ceiling_path(rng.random(20_000) < 0.005, 0.005).max() >= threshold(BETA)) for _ in range(2 * RUNS))
    assert consistent(Rate(hits, 2 * RUNS), BETA)


DELAYS = {1.5: 110_700, 2: 35_200, 3: 9_220, 5: 2_780, 10: 786, 30: 216, 100: 51}
"""Median requests until rollback at a weight of 5 %, a base rate of 1 % and alpha 1 %, as simulated before this."""


@pytest.mark.parametrize("ratio", DELAYS)
def test_harm_is_found_after_as_many_requests_as_the_theory_says(ratio: float) -> None:
    """Medians within a quarter of the table's (within half in an ordinary run, whose medians are rougher), or sooner;
    the smallest counts, where one event more or less is a quarter, within one event."""
    runs, w = (400 if STRESS else 60), 0.05
    share = 0.01 * (w * ratio + 1 - w)
    rng = np.random.default_rng((11, int(ratio * 10)))
    delays = []
    for _ in range(runs):
        events = 6_000 if ratio < 2 else 3_000
        x = rng.random(events) < w * ratio / (w * ratio + 1 - w)
        found = log_e_path(x, np.full(events, 500), 1.0)
        needed = int(np.argmax(found >= LINE)) + 1 if found.max() >= LINE else events
        delays.append(rng.negative_binomial(needed, share) + needed)
    median = float(np.median(delays))
    print(f"r = {ratio:g}: {median:,.0f} requests, {DELAYS[ratio]:,} in the table")
    slack = 1.25 if STRESS else 1.5
    assert median <= slack * DELAYS[ratio] + 1 / share
    assert median >= DELAYS[ratio] / slack - 1 / share


def test_a_challenger_that_always_fails_goes_within_eighty_requests_at_five_per_cent() -> None:
    """With no other errors at all, at alpha 1 %; at 1 % weight within three hundred."""
    rng = np.random.default_rng(12)
    for weight, most in ((500, 80), (100, 300)):
        needed = int(np.argmax(log_e_path(np.ones(50, bool), np.full(50, weight), 1.0) >= LINE)) + 1
        requests = rng.negative_binomial(needed, weight / 10_000, 2_000) + needed
        assert np.median(requests) <= most


def two_sided_path(seen: np.ndarray, bins: np.ndarray, w: float, at: np.ndarray) -> np.ndarray:
    """The shift's log e-value after so many rows, from the contract itself."""
    counts = [
        [
            {round(w * 10_000): Arms(int(seen[:end][bins[:end] == b].sum()), int((~seen[:end])[bins[:end] == b].sum()))}
            for b in range(10)
        ]
        for end in at
    ]
    return np.array([distribution.shift(each) for each in counts])


@pytest.mark.parametrize(("shift", "most"), [(0.0, 0), (0.3, 13_000), (1.0, 900)])
def test_a_shift_of_scores_is_found_and_none_is_not(shift: float, most: int) -> None:
    """At a weight of 5 %: by a third of a standard deviation, by a whole one, and two equal distributions."""
    runs, edges = RUNS // 4, distribution.score_edges(np.random.default_rng(0).normal(size=20_000).tolist())
    at = np.unique(np.geomspace(50, 20_000, 25).astype(int))
    found = []
    for run in range(runs):
        rng = np.random.default_rng((13, run))
        seen = rng.random(20_000) < 0.05
        bins = np.searchsorted(edges, rng.normal(size=20_000) + shift * seen, side="right")
        over = two_sided_path(seen, bins, 0.05, at) >= LINE
        found.append(at[int(np.argmax(over))] if over.any() else np.inf)
    if shift:
        assert np.median(found) <= most
    else:
        assert consistent(Rate(int(np.isfinite(found).sum()), runs), ALPHA)


def mirrored(rng: np.random.Generator, slower: float, pairs: int) -> list[np.ndarray]:
    """Per threshold, the log e-value after each mirrored pair; durations share what the row costs."""
    row = rng.normal(size=pairs) * 0.4
    champion, challenger = (np.exp(row + rng.normal(size=pairs) * 0.45) for _ in range(2))
    limits = distribution.latency_thresholds_ns(
        (1e6 * np.exp(np.random.default_rng(0).normal(size=20_000) * 0.6)).astype(int).tolist(), 1.0, None
    )
    found = []
    for limit in limits:
        ours, theirs = 1e6 * challenger * slower > limit, 1e6 * champion > limit
        c = np.array(HARMFUL)[:, None]
        sums = np.cumsum(ours * np.log(c) + (ours * 1.0 + theirs) * np.log(2 / (c + 1)), axis=1)
        top = sums.max(axis=0)
        found.append(top + np.log(np.exp(sums - top).mean(axis=0)))
    return found


@pytest.mark.parametrize(("slower", "most"), [(1.0, 0), (1.3, 900), (3.0, 60)])
def test_a_slower_version_is_found_in_the_mirror_and_an_equal_one_is_not(slower: float, most: int) -> None:
    """The mean of four thresholds' evidence over pairs of the same rows, without slack."""
    found = []
    for run in range(RUNS):
        logs = np.array(mirrored(np.random.default_rng((14, run)), slower, 5_000))
        over = np.log(np.exp(np.minimum(logs, 600)).mean(axis=0)) >= LINE
        found.append(int(np.argmax(over)) + 1 if over.any() else np.inf)
    if slower > 1:
        assert np.median(found) <= most
    else:
        assert consistent(Rate(int(np.isfinite(found).sum()), RUNS), ALPHA)


@pytest.mark.parametrize(("wrong", "right", "most"), [(0.03, 0.03, 0), (0.04, 0.02, 2_200), (0.06, 0.02, 700)])
def test_labelled_pairs_find_the_version_that_errs_more_often(wrong: float, right: float, most: int) -> None:
    """Labelled rows until the shadow's mistakes are evidence."""
    found, runs = [], RUNS if wrong > right else 4 * RUNS
    for run in range(runs):
        rng = np.random.default_rng((15, run))
        ours, theirs = rng.random(10_000) < wrong, rng.random(10_000) < right
        at = np.flatnonzero(ours != theirs)
        path_ = log_e_path(ours[at], np.full(len(at), 5_000), 1.0)
        over = path_ >= LINE
        found.append(at[int(np.argmax(over))] if over.any() else np.inf)
    if wrong > right:
        assert np.median(found) <= most
    else:
        assert consistent(Rate(int(np.isfinite(found).sum()), runs), ALPHA)


@pytest.mark.parametrize("actual", [500, 650, 350])
def test_the_router_finds_shares_that_are_not_what_was_drawn(actual: int) -> None:
    """5 % that are 5 % are no alarm however often one looks; 6.5 % or 3.5 % are found within 20,000 entities."""
    alarms = 0
    for run in range(RUNS):
        challenger = np.random.default_rng((16, run)).integers(0, 10_000, 20_000) < actual
        alarms += any(
            distribution.sample_ratio({500: Arms(int(challenger[:end].sum()), int((~challenger[:end]).sum()))})
            >= threshold(0.001)
            for end in range(500, 20_001, 500)
        )
    if actual == 500:
        assert consistent(Rate(alarms, RUNS), 0.001)
    else:
        assert alarms > 0.9 * RUNS
