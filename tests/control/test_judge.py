"""The judge: three verdicts, each with its reason, and the same whenever it is asked again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rollouts import Traffic, draw, ours
from control.rollout.case import (
    Case,
    Cause,
    Evidence,
    Flags,
    Judgement,
    Phase,
    ShadowReport,
    StepCounts,
    Verdict,
)
from control.rollout.judge import SECOND_NS, judge
from control.rollout.policy import AtMaximum, Metric, Policy
from control.rollout.tiers import DEFAULTS
from gateway.contract.document import Tier
from gateway.contract.evidence import Arms
from tests.control.streams import RUNS, Rate, consistent
from tests.support import STRESS

STANDARD = Policy.model_validate(DEFAULTS[Tier.STANDARD])
HOUR = 3_600 * SECOND_NS
CLEAN = StepCounts(scored={100: Arms(800, 79_200)})
PROVEN = Evidence(step={Metric.ERRORS: CLEAN, Metric.NON_FINITE: CLEAN}, assigned={100: Arms(800, 79_200)})
HARM = {Metric.ERRORS: {100: Arms(9, 20)}}
ORDER = (Verdict.ROLL_BACK, Verdict.HOLD, Verdict.ADVANCE)


def canary(evidence: Evidence, **changes: object) -> Case:
    """A case in the first step, long enough in it, approved."""
    case = Case(phase=Phase.CANARY, elapsed_ns=HOUR, step_elapsed_ns=HOUR, approved=True, evidence=evidence)
    return case.model_copy(update=changes)


def shadow(**report: int) -> Case:
    """A case in shadow whose report meets the exit rule but for what is given."""
    met = {"pairs": 20_000, "flips": 100, "champion_p99_ns": 1_000, "challenger_p99_ns": 1_100}
    return Case(phase=Phase.SHADOW, elapsed_ns=HOUR, approved=True, shadow=ShadowReport(**(met | report)))


def test_advances_on_evidence_of_safety_and_shows_it() -> None:
    """Two arms without a single error advance, because the challenger's rate is shown to lie under the ceiling."""
    found = judge(STANDARD, canary(PROVEN))
    assert (found.verdict, found.cause) == (Verdict.ADVANCE, Cause.PROVEN)
    assert "0 bad of the challenger's 800" in found.sentence


@pytest.mark.parametrize("phase", Phase)
def test_holds_without_any_evidence(phase: Phase) -> None:
    """Not measured is not healthy, and not ill either."""
    found = judge(STANDARD, Case(phase=phase, elapsed_ns=HOUR, step_elapsed_ns=HOUR, approved=True))
    assert found.verdict is Verdict.HOLD
    assert phase is Phase.HOLDBACK or found.cause is Cause.UNMEASURED


def test_rolls_back_on_harm_with_its_numbers_whatever_else_holds_it() -> None:
    """Paused, unapproved, too early, unread rows: evidence of harm goes first."""
    for changes in (
        {},
        {"step_elapsed_ns": 0},
        {"approved": False},
        {"flags": Flags(paused=True, lost_rows=5, unwatched=("gateway-1",))},
    ):
        found = judge(STANDARD, canary(PROVEN.model_copy(update={"first_bad": HARM}), **changes))
        assert (found.verdict, found.cause) == (Verdict.ROLL_BACK, Cause.HARM)
        assert found.sentence.startswith("errors: 9 in the challenger and 20 in the champion")


def test_outcomes_that_are_told_of_one_arm_alone_prove_nothing() -> None:
    """Whoever reports the champion's labels earlier, or only some of them, feigns harm: people hear of that instead."""
    harm = {Metric.LABELS: {5_000: Arms(40, 0)}}
    alike, lopsided = {5_000: Arms(210, 190)}, {5_000: Arms(300, 20)}
    for told, verdict in ((alike, Verdict.ROLL_BACK), (lopsided, Verdict.HOLD)):
        evidence = PROVEN.model_copy(update={"first_bad": harm, "told": {Metric.LABELS: told}, "step": {}})
        found = judge(STANDARD, canary(evidence))
        assert found.verdict is verdict
        assert any("not how they were assigned" in alert for alert in found.alerts) is (verdict is Verdict.HOLD)


def test_the_control_plane_judges_at_half_of_a_metrics_alpha() -> None:
    """The other half belongs to gateways that judge alone; labels are halved again, for pairs and for arms."""
    found = {(f.metric, f.test): f.threshold for f in judge(STANDARD, canary(PROVEN)).findings}
    assert found[Metric.ERRORS, "harm"] == pytest.approx(-math.log(0.01 * 0.35 / 2))
    assert found[Metric.LABELS, "harm"] == pytest.approx(-math.log(0.01 * 0.15 / 4))
    assert found[Metric.ERRORS, "ceiling"] == pytest.approx(-math.log(0.05))


def test_holds_before_the_minimum_time_however_good_the_evidence() -> None:
    """And says how much of it has passed."""
    found = judge(STANDARD, canary(PROVEN, step_elapsed_ns=60 * SECOND_NS))
    assert (found.verdict, found.cause) == (Verdict.HOLD, Cause.TOO_EARLY)
    assert found.sentence == "1 min of the step's 10 min have passed."


def test_holds_while_one_gate_has_not_shown_enough() -> None:
    """Naming it with its numbers."""
    few = PROVEN.model_copy(
        update={"step": {Metric.ERRORS: CLEAN, Metric.NON_FINITE: StepCounts(scored={100: (50, 9)})}}
    )
    found = judge(STANDARD, canary(few))
    assert (found.verdict, found.cause) == (Verdict.HOLD, Cause.UNPROVEN)
    assert "non_finite: 0 bad of the challenger's 50" in found.sentence
    assert "errors" not in found.sentence


def test_never_advances_past_what_is_approved() -> None:
    """However good the evidence; somebody has to act."""
    found = judge(STANDARD, canary(PROVEN, approved=False))
    assert (found.verdict, found.cause, found.needs_person) == (Verdict.HOLD, Cause.UNAPPROVED, True)


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (Flags(paused=True), Cause.PAUSED),
        (Flags(lost_rows=1), Cause.UNMEASURED),
        (Flags(unwatched=("gateway-2",)), Cause.UNMEASURED),
    ],
)
def test_never_advances_while_something_keeps_it(flags: Flags, cause: Cause) -> None:
    """A pause, rows that nobody read, a gateway from which nothing comes."""
    found = judge(STANDARD, canary(PROVEN, flags=flags))
    assert (found.verdict, found.cause) == (Verdict.HOLD, cause)


def test_a_broken_router_holds_everything_even_harm() -> None:
    """Arms without their shares mean that no bet was fair; it needs a person, and ends with the time."""
    broken = PROVEN.model_copy(update={"assigned": {100: Arms(2_000, 78_000)}, "first_bad": HARM})
    found = judge(STANDARD, canary(broken))
    assert (found.verdict, found.cause, found.needs_person) == (Verdict.HOLD, Cause.ROUTER, True)
    late = judge(STANDARD, canary(broken, elapsed_ns=8 * 24 * HOUR))
    assert (late.verdict, late.cause) == (Verdict.ROLL_BACK, Cause.TIME_IS_UP)


@pytest.mark.parametrize(
    ("at_maximum", "verdict", "person"),
    [(AtMaximum.BACK, Verdict.ROLL_BACK, False), (AtMaximum.HOLD, Verdict.HOLD, True)],
)
@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY])
def test_time_that_is_up_ends_in_what_the_policy_says(
    phase: Phase, at_maximum: AtMaximum, verdict: Verdict, person: bool
) -> None:
    """Never in silence."""
    policy = STANDARD.model_copy(update={"at_maximum": at_maximum})
    found = judge(policy, Case(phase=phase, elapsed_ns=30 * 24 * HOUR, approved=True))
    assert (found.verdict, found.cause, found.needs_person) == (verdict, Cause.TIME_IS_UP, person)


def test_the_holdback_goes_on_comparing_and_then_ends() -> None:
    """After promotion harm still rolls back; otherwise its time ends it."""
    harm = Evidence(first_bad={Metric.ERRORS: {9_900: Arms(3_000, 3)}})
    case = Case(phase=Phase.HOLDBACK, elapsed_ns=HOUR, approved=False)
    assert judge(STANDARD, case).verdict is Verdict.HOLD
    assert judge(STANDARD, case.model_copy(update={"evidence": harm})).verdict is Verdict.ROLL_BACK
    ended = judge(STANDARD, case.model_copy(update={"elapsed_ns": 15 * 24 * HOUR}))
    assert (ended.verdict, ended.cause) == (Verdict.ADVANCE, Cause.ENDED)


def test_what_a_person_promoted_without_evidence_is_not_rolled_back_by_statistics() -> None:
    """Harm becomes an alert; deterministic guards act elsewhere."""
    case = canary(
        PROVEN.model_copy(update={"first_bad": HARM}), flags=Flags(without_evidence=True), phase=Phase.HOLDBACK
    )
    found = judge(STANDARD, case)
    assert found.verdict is Verdict.HOLD
    assert found.alerts[0].startswith("errors: 9 in the challenger")


def test_scores_that_moved_are_an_alert_and_stop_nothing() -> None:
    """A new model is meant to move them."""
    bins = tuple({100: Arms(400 if k == 0 else 44, 7_920)} for k in range(10))
    found = judge(STANDARD, canary(PROVEN.model_copy(update={"score_bins": bins})))
    assert found.verdict is Verdict.ADVANCE
    assert "distribution of scores" in found.alerts[0]


def test_decisions_that_became_much_rarer_are_harm_as_well() -> None:
    """A rate may err either way."""
    rare = Evidence(first_bad={Metric.DECISIONS: {5_000: Arms(10, 200)}})
    assert judge(STANDARD, canary(rare)).cause is Cause.HARM


@pytest.mark.parametrize(
    ("report", "verdict", "cause"),
    [
        ({}, Verdict.ADVANCE, Cause.PROVEN),
        ({"pairs": 9_999}, Verdict.HOLD, Cause.UNPROVEN),
        ({"exceptions": 1}, Verdict.ROLL_BACK, Cause.EXCEPTIONS),
        ({"flips": 1_950}, Verdict.HOLD, Cause.UNPROVEN),
        ({"flips": 1_800}, Verdict.ADVANCE, Cause.PROVEN),
        ({"challenger_p99_ns": 1_300}, Verdict.HOLD, Cause.UNPROVEN),
        ({"champion_p99_ns": 0}, Verdict.HOLD, Cause.UNMEASURED),
    ],
)
def test_the_shadows_exit_rule(report: dict[str, int], verdict: Verdict, cause: Cause) -> None:
    """Pairs, exceptions, a bound of the flip rate that holds at all times, latency."""
    found = judge(STANDARD, shadow(**report))
    assert (found.verdict, found.cause) == (verdict, cause)


def test_the_shadow_ends_on_slow_runs_and_on_labelled_mistakes() -> None:
    """The mirror's pairs are evidence before anybody is answered by the challenger."""
    slow = shadow().model_copy(update={"evidence": Evidence(slow_runs=(Arms(90, 50), Arms(80, 10), Arms(), Arms()))})
    wrong = shadow().model_copy(update={"evidence": Evidence(mistaken_alone=Arms(60, 10))})
    assert judge(STANDARD, slow).sentence.startswith("latency")
    assert judge(STANDARD, wrong).sentence.startswith("labels")


counts = st.builds(Arms, st.integers(0, 30), st.integers(0, 300))
cases = st.builds(
    lambda bad, scored, wrong, elapsed, approved, phase: Case(
        phase=phase,
        elapsed_ns=elapsed * HOUR,
        step_elapsed_ns=elapsed * HOUR,
        approved=approved,
        evidence=Evidence(
            first_bad={Metric.ERRORS: {100: bad}},
            step={
                Metric.ERRORS: StepCounts(scored={100: scored}, bad={100: Arms(min(wrong, scored[0]), 0)}),
                Metric.NON_FINITE: StepCounts(scored={100: scored}),
            },
        ),
    ),
    counts,
    st.builds(Arms, st.integers(0, 3_000), st.integers(0, 9_000)),
    st.integers(0, 5),
    st.integers(0, 400),
    st.booleans(),
    st.sampled_from((Phase.CANARY, Phase.HOLDBACK)),
)


@given(cases)
def test_more_harm_never_yields_a_better_verdict(case: Case) -> None:
    """One more bad entity in the challenger, which was its first scored row as well."""
    step = case.evidence.step[Metric.ERRORS]
    scored, bad = step.scored[100], step.bad[100]
    if bad.challenger < scored.challenger:
        step = step.model_copy(update={"bad": {100: Arms(bad.challenger + 1, 0)}})
    first = case.evidence.first_bad[Metric.ERRORS][100]
    worse = case.evidence.model_copy(
        update={
            "first_bad": {Metric.ERRORS: {100: Arms(first.challenger + 1, first.champion)}},
            "step": case.evidence.step | {Metric.ERRORS: step},
        }
    )
    after = judge(STANDARD, case.model_copy(update={"evidence": worse}))
    assert ORDER.index(after.verdict) <= ORDER.index(judge(STANDARD, case).verdict)


@given(cases)
def test_a_judgement_is_made_again_from_what_the_audit_trail_keeps(case: Case) -> None:
    """Policy and case as canonical text give the same judgement, to the byte."""
    again = judge(Policy.model_validate_json(STANDARD.canonical()), Case.model_validate_json(case.canonical()))
    stored = judge(STANDARD, case)
    assert again.canonical() == stored.canonical()
    assert Judgement.model_validate_json(stored.canonical()) == stored


def rolled_out(traffic: Traffic, ratio: float, policy: Policy, tick_s: float, seed: int) -> tuple[bool, bool, bool]:
    """A whole simulated rollout: rolled back by evidence, promoted, or timed out."""
    return ours(policy, draw(traffic, ratio, np.random.default_rng((20, seed))), tick_s)[:3]


@pytest.mark.stress
@pytest.mark.timeout(1_800)
def test_whole_rollouts_of_sound_versions_are_rolled_back_at_most_as_often_as_alpha() -> None:
    """Control plane and gateways, steps that the judge itself takes, sticky entities, some of which always fail."""
    traffic = Traffic(20, 7_200, 20_000, 0.004, always_bad=0.002)
    found = [rolled_out(traffic, 1.0, STANDARD, 120, run) for run in range(RUNS if STRESS else 40)]
    assert consistent(Rate(sum(back for back, _, _ in found), len(found)), STANDARD.alpha)


@pytest.mark.stress
def test_whole_rollouts_without_any_error_are_promoted() -> None:
    """By the ceiling, since ratios say nothing of them."""
    traffic = Traffic(100, 4 * 3_600, 200_000, 0.0)
    found = [rolled_out(traffic, 1.0, STANDARD, 60, run) for run in range(20 if STRESS else 3)]
    assert all(promoted for _, promoted, _ in found)


@pytest.mark.stress
def test_whole_rollouts_of_harmful_versions_are_not_promoted() -> None:
    """Five times as many errors, beyond the ceiling: back by evidence, at all times."""
    traffic = Traffic(100, 4 * 3_600, 200_000, 0.003)
    found = [rolled_out(traffic, 5.0, STANDARD, 60, run) for run in range(20 if STRESS else 3)]
    assert all(back for back, _, _ in found)


@pytest.mark.stress
def test_a_model_with_two_hundred_requests_a_day_ends_by_its_timeout_rule() -> None:
    """Too little for any evidence: after the policy's seven days the rollout is over, and says why."""
    traffic = Traffic(200 / 86_400, 10 * 86_400, 150, 0.001)
    found = [rolled_out(traffic, 1.0, STANDARD, 3_600, run) for run in range(20 if STRESS else 3)]
    assert all(timed_out for _, _, timed_out in found)
