"""What `interlock rollout show` and `watch` say, from answers as the control plane gives them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.cli.history import sentence
from control.cli.rollout_lines import (
    BAR_CELLS,
    bar,
    charts,
    describe,
    e_value,
    headline,
    keyed,
    ladder,
    length,
    next_command,
    policy_lines,
    progress,
    spark,
    times,
)
from control.cli.rollout_mirror import mirror_lines
from control.cli.rollout_watch import Look, _drawn, change, over, picture, told
from control.rollout.policy import Policy
from control.rollout.tiers import default_policy
from control.v1 import rollout_pb2 as pb
from tests.control.planes import document_of

S = 1_000_000_000
POLICY = default_policy(document_of("churn"))
NOW_NS = 1_800_000_000 * S


def rollout(**fields: Any) -> pb.Rollout:
    """A rollout in the second step of its canary."""
    given_ = {
        "rollout_id": 12,
        "model": "churn",
        "challenger": 4,
        "control": 3,
        "phase": "canary",
        "step": 2,
        "weights_bps": [step.weight_bps for step in POLICY.steps],
        "weight_bps": 500,
        "started_by": "mia",
        "started_ns": NOW_NS - 7_200 * S,
        "phase_since_ns": NOW_NS - 3_900 * S,
        "step_since_ns": NOW_NS - 720 * S,
        "verdict": "hold",
        "cause": "too_early",
        "reason": "720 s of the step's 15 min have passed.",
    }
    return pb.Rollout(**(given_ | fields))


def finding(metric: str = "errors", test: str = "harm", share: float = 0.5, **fields: Any) -> pb.Finding:
    """A test that has come so far."""
    threshold = math.log(4_000)
    given_ = {"log_e": share * threshold, "threshold": threshold, "reached": share >= 1, "challenger": 3, "control": 1}
    return pb.Finding(metric=metric, test=test, **(given_ | fields))


def answer(**fields: Any) -> pb.GetRolloutResponse:
    """What GetRollout says of it."""
    return pb.GetRolloutResponse(rollout=rollout(**fields), policy_json=POLICY.canonical())


def test_the_live_view_has_weights_times_the_judgement_and_charts() -> None:
    """From one answer and the course of its tests, line by line."""
    findings = [
        finding("router", "ratio", 0.1, challenger=412, control=7_901),
        finding("errors", "harm", 0.5),
        finding("errors", "ceiling", 1.0, challenger=0, control=412),
    ]
    look = Look(answer(findings=findings), "")
    lines = picture(look, NOW_NS, {("errors", "harm", 1): [0.0, 0.25, 0.5]})
    assert [line.words for line in lines] == [
        "churn/4 against churn/3: canary at 5 %, step 2 of 4",
        "shadow ✓  →  1 % ✓  →  ▶ 5 %  →  25 %  →  50 %  →  99 %",
        "12 min in this step of at least 15 min; 1 h 5 min in canary of at most 7 d; begun by mia",
        "HOLD: 720 s of the step's 15 min have passed.",
        "",
        "test    evidence of       e-value / needed                       counts",
        "router  wrong shares         2.29 / 4,000    ▕█▌              ▏  412 challenger, 7,901 control",
        "errors  harm                 63.2 / 4,000    ▕████████        ▏  3 bad, control 1  ▁▃▅",
        "errors  under ceiling       4,000 / 4,000    ▕████████████████▏  0 bad of 412  passed",
    ]
    assert lines[-1].style == "green"


def test_the_live_view_ends_with_what_was_seen_last(capsys: pytest.CaptureFixture[str]) -> None:
    """Each test's course is drawn from look to look."""
    looks = [Look(answer(findings=[finding(share=share)]), "") for share in (0.1, 0.6, 1.0)]
    assert _drawn(iter(looks)).rollout_id == 12
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("errors")]
    assert line.rstrip().endswith("▁▅█  rolls back")


def test_a_control_plane_that_is_away_is_said_below_what_is_known() -> None:
    """The view does not end: gateways go on alone, and so does whoever looks."""
    lines = picture(Look(answer(), "cannot connect"), NOW_NS, {})
    assert lines[-1].words == "cannot connect"


def test_alerts_and_the_need_of_a_person_are_coloured() -> None:
    """So that they are seen from across the room."""
    lines = describe(answer(needs_person=True, alerts=["scores moved"]), NOW_NS)
    assert [line.style for line in lines if line.words.startswith("HOLD")] == ["yellow"]
    assert [line.style for line in lines if line.words == "ALERT: scores moved"] == ["red"]
    assert describe(answer(verdict="", reason=""), NOW_NS)[-1].words.startswith("not judged yet")


@pytest.mark.parametrize(
    ("fields", "head", "stages"),
    [
        ({"phase": "shadow", "step": 0}, "shadow", "▶ shadow  →  1 %  →  5 %  →  25 %  →  50 %  →  99 %"),
        (
            {"phase": "shadow", "step": 0, "shadow_only": True, "paused": True},
            "shadow, for comparison only, paused",
            "▶ shadow",
        ),
        (
            {"phase": "holdback", "step": 0, "weight_bps": 9_900, "without_evidence": True},
            "promoted to 99 %, holdback, promoted without evidence",
            "shadow ✓  →  1 % ✓  →  5 % ✓  →  25 % ✓  →  50 % ✓  →  ▶ 99 %",
        ),
        (
            {"phase": "ended", "outcome": "promoted"},
            "promoted",
            "shadow ✓  →  1 % ✓  →  5 % ✓  →  25 % ✓  →  50 % ✓  →  99 % ✓",
        ),
        (
            {"phase": "ended", "outcome": "rolled_back"},
            "rolled back",
            "shadow ✓  →  1 % ✓  →  ✗ 5 %  →  25 %  →  50 %  →  99 %",
        ),
        (
            {"phase": "ended", "outcome": "rolled_back", "step": 0},
            "rolled back",
            "shadow  →  1 %  →  5 %  →  25 %  →  50 %  →  99 %",
        ),
    ],
)
def test_every_phase_has_its_words_and_its_place(fields: dict[str, Any], head: str, stages: str) -> None:
    """Whatever the rollout is at."""
    found = rollout(**fields)
    assert headline(found) == f"churn/4 against churn/3: {head}"
    assert ladder(found, POLICY) == stages


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({}, "interlock rollout watch churn"),
        ({"shadow_only": True}, "interlock rollout watch 12"),
        ({"phase": "holdback", "step": 0}, "interlock rollout watch churn --holdback"),
        ({"paused": True}, "interlock rollout resume churn"),
        ({"cause": "unapproved"}, "interlock approval approve churn/4"),
        ({"cause": "router"}, "interlock rollout rollback churn --reason WHY"),
        (
            {"cause": "time_is_up"},
            "interlock rollout promote churn --reason WHY, or interlock rollout rollback churn --reason WHY",
        ),
        ({"without_evidence": True, "alerts": ["harm"]}, "interlock rollback churn --reason WHY"),
        ({"outcome": "promoted"}, "interlock status churn"),
        ({"outcome": "rolled_back"}, "interlock model history churn"),
        ({"outcome": "shadowed"}, "interlock rollout start churn 4"),
    ],
)
def test_the_next_command_follows_from_where_it_stands(fields: dict[str, Any], command: str) -> None:
    """Nobody needs the manual to go on."""
    assert next_command(rollout(**fields)) == command


def test_a_line_is_said_when_something_moves_and_not_for_every_row() -> None:
    """The sentence's figures change all the time; phases, weights, causes and alerts do not."""
    before = Look(answer(), "")
    assert change(before) == change(Look(answer(reason="721 s of the step's 15 min have passed."), ""))
    for fields in ({"weight_bps": 2_500}, {"paused": True}, {"cause": "unmeasured"}, {"alerts": ["x"]}):
        assert change(before) != change(Look(answer(**fields), "")), fields
    assert change(before) != change(Look(answer(), "away"))
    assert told(before, NOW_NS) == (
        "2027-01-15 08:00:00Z  churn/4 against churn/3: canary at 5 %, step 2 of 4  "
        "hold, too early: 720 s of the step's 15 min have passed."
    )


def test_watching_ends_at_the_promotion_unless_the_holdback_is_waited_for() -> None:
    """And with every outcome."""
    held = rollout(phase="holdback")
    assert (over(held, False), over(held, True)) == (True, False)
    assert over(rollout(outcome="rolled_back"), True)
    assert not over(rollout(), False)


def test_the_whole_promise_is_shown() -> None:
    """A line for each part of the policy."""
    words = [line.words for line in policy_lines(POLICY)]
    assert words[0] == "alpha 0.01 in all: half for the control plane, half shared by up to 8 gateways"
    assert any(
        line.startswith("errors      gate, 35 % of alpha, harm beyond 1.1 times; passes under") for line in words
    )
    assert words[-1] == "holdback    1 % for 14 d"
    bare = Policy.model_validate(json.loads(POLICY.canonical()) | {"shadow": None, "holdback": None})
    assert not any(line.words.startswith(("shadow", "holdback")) for line in policy_lines(bare))
    assert ladder(rollout(), bare) == "1 % ✓  →  ▶ 5 %  →  25 %  →  50 %  →  full"
    assert "of at most 7 d" in times(rollout(), bare, NOW_NS)


def test_mirror_figures_name_the_segments_that_differ_most() -> None:
    """A gateway that saw nothing yet says so; one without a report is left out."""
    nothing = {"pairs": 0, "exceptions": 1, "non_finite": 0, "dropped": 2, "flips_up": 0, "flips_down": 0}
    value = {"pairs": 100, "flips_up": 9, "flips_down": 1}
    figures = {
        "correlation": 0.99,
        "mean_difference": 0.01,
        "mean_absolute_difference": 0.02,
        "p99_absolute_difference": 0.1,
        "score_psi": 0.03,
        "segments": {"plan": {"pre": value, "post": value | {"flips_up": 0}, "rare": value | {"pairs": 3}}},
    }
    seen = {"pairs": 200, "exceptions": 0, "non_finite": 0, "dropped": 0, "flips_up": 9, "flips_down": 2}
    report = seen | {"figures_json": figures, "shadow_p99_ns": 2_000_000, "other_p99_ns": 1_000_000}
    words = [line.words for line in mirror_lines({"g1": report, "g2": nothing | {"figures_json": {}}, "g3": {}})]
    assert words == [
        "g1: 200 pairs, 0 exceptions, 0 not finite, 0 dropped",
        "  5.50% decided otherwise: 9 up, 2 down",
        "  scores differ by 0.02 on average (+0.01 with their signs), 0.1 at p99; correlation 0.9900, population "
        "stability index 0.03",
        "  a run's p99 is 2 ms, the control's 1 ms: 2.00 times",
        "  plan=pre: 10.00% of 100 decided otherwise",
        "  plan=post: 1.00% of 100 decided otherwise",
        "g2: 0 pairs, 1 exceptions, 0 not finite, 2 dropped",
    ]


def test_two_tests_of_one_metric_have_courses_of_their_own() -> None:
    """Labels are judged in pairs and by arms."""
    both = [finding("labels", share=0.2), finding("labels", share=0.9)]
    assert [key for key, _ in keyed(both)] == [("labels", "harm", 1), ("labels", "harm", 2)]
    words = [line.words for line in charts(both, {})]
    assert ["in pairs" in line for line in words[1:]] == [True, False]
    lines = charts(both, {("labels", "harm", 2): [1.0]})
    assert [line.words.endswith("█") for line in lines[1:]] == [False, True]


@given(st.floats(0, 1))
def test_a_bar_is_full_only_at_the_threshold(share: float) -> None:
    """And always as wide as the others."""
    drawn = bar(share)
    assert len(drawn) == BAR_CELLS + 2
    assert (drawn[1:-1] == "█" * BAR_CELLS) == (share == 1)
    assert len(spark([share, share])) == 2


@given(st.floats(-700, 700))
def test_e_values_of_every_size_fit_their_column(log_e: float) -> None:
    """Also those that no float could hold as a plain number."""
    assert len(e_value(log_e)) <= 9
    assert 0 <= progress(finding(log_e=log_e)) <= 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (5_400, "1 h 30 min"), (86_400, "1 d")]
)
def test_durations_have_their_two_largest_units(seconds: int, words: str) -> None:
    """Enough to take in."""
    assert length(seconds * S) == words


@pytest.mark.parametrize(
    ("actor", "action", "facts", "told_"),
    [
        (
            "mia",
            "rollout.start",
            {"control": 3, "phase": "shadow", "policy": {}},
            "mia started a rollout of churn/4 against version 3, in shadow",
        ),
        (
            "controller",
            "rollout.advance",
            {"phase": "canary", "weight_bps": 500, "outcome": "", "sentence": "Proven."},
            "churn/4 goes on, canary at 5 %: Proven.",
        ),
        (
            "gateway g1",
            "version.step_back",
            {"actor": "gateway", "gateway_id": "g1", "time_ns": S, "reason": "it erred"},
            "gateway g1 alone stepped back from churn/4 at 1970-01-01 00:00:01Z: “it erred”",
        ),
        ("controller", "rollout.hold", {"judgement": {"sentence": "Not yet."}}, "churn/4 holds: Not yet."),
        (
            "gateway g1",
            "rollout.quarantine",
            {"by": "gateway", "gateway_id": "g1", "time_ns": 1, "reason": "it hung"},
            "gateway g1 quarantined churn/4: “it hung”",
        ),
        (
            "mia",
            "rollout.roll_back",
            {"by": "person", "reason": "bad"},
            "mia ended the rollout of churn/4 against it: “bad”",
        ),
    ],
)
def test_history_tells_what_rollouts_did(actor: str, action: str, facts: dict[str, Any], told_: str) -> None:
    """In sentences, as of everything else."""
    assert sentence(actor, action, "churn/4", json.dumps(facts)) == told_
