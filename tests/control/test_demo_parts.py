"""The demo's parts: its directory, its steps, its data, and what it makes of callers' replies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from control.demo import churn, policies
from control.demo.callers import Reply
from control.demo.candidate import train
from control.demo.checks import largest_difference, require_named_version, require_version
from control.demo.directory import MARK, claim
from control.demo.recipes import PLANTED, RECIPES
from control.demo.steps import Report, Rollback, StepFailed, take_all
from control.demo.trail import Standing, entry, standings
from control.demo.watching import Sight, Watched, is_bad, moves, rollback
from control.rollout.tiers import read_policy
from control.training.classifier import probability
from control.v1.rollout_pb2 import Rollout
from gateway.contract.document import ModelDocument


def test_a_demo_starts_with_an_empty_directory_each_time(tmp_path: Path) -> None:
    """What the last run left is gone."""
    data = claim(tmp_path / "demo")
    (data / "old.txt").write_text("from the last run")
    assert [path.name for path in claim(tmp_path / "demo").iterdir()] == [MARK]


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    """A mistyped --data deletes nothing."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        claim(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_file_in_the_directorys_place_is_left_alone(tmp_path: Path) -> None:
    """Nor does a file have to give way."""
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(ValueError, match="holds something else"):
        claim(tmp_path / "demo")


def test_a_directory_whose_services_run_is_not_emptied(tmp_path: Path) -> None:
    """`interlock up` in another terminal keeps its files."""
    data = claim(tmp_path / "demo")
    (data / "control" / "run").mkdir(parents=True)
    (data / "control" / "run" / "address").write_text(json.dumps({"address": "127.0.0.1:1", "pid": os.getpid()}))
    with pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        claim(data)


def test_steps_are_taken_in_order_and_stop_at_the_first_that_fails(tmp_path: Path) -> None:
    """The report says how far it came, and the failure says why."""

    def fails(_: list[str]) -> str:
        raise ValueError("no such luck")

    report, taken = Report(), list[str]()
    steps = [("first", lambda told: told.append("1") or "one"), ("second", fails), ("third", lambda told: "three")]
    with (tmp_path / "out").open("w") as file, pytest.raises(StepFailed, match="second: no such luck"):
        take_all(Console(file=file, width=80), report, steps, taken)
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert taken == ["1"]
    assert [(step["name"], step["ok"]) for step in written["steps"]] == [("first", True), ("second", False)]
    assert not written["ok"]


def test_a_figure_with_brackets_is_printed_as_it_is(tmp_path: Path) -> None:
    """Rich's markup does not eat what a step says."""
    with (tmp_path / "out").open("w") as file:
        take_all(Console(file=file, width=20), Report(), [("[a]", lambda _: "rows [1, 2]")], None)
    lines = (tmp_path / "out").read_text().splitlines()
    assert len(lines) == 1
    assert "[a]" in lines[0]
    assert "rows [1, 2]" in lines[0]


def test_ids_and_times_are_the_same_in_every_run() -> None:
    """Derived from a seed: the training set of two runs has one digest."""
    first, second = churn.load(churn.data_file()), churn.load(churn.data_file())
    assert first.equals(second)
    assert first.index.is_unique
    assert first["event_time"].max() <= churn.NEWEST_EVENT


def test_held_out_subscribers_are_a_thousand_and_not_trained_on() -> None:
    """What is checked is what no version has seen."""
    parts = churn.parts(churn.load(churn.data_file()))
    assert (len(parts.train), len(parts.held_out)) == (4000, 1000)
    assert not set(parts.train.index) & set(parts.held_out.index)


def test_the_second_version_takes_one_more_feature_by_a_view_of_its_own() -> None:
    """The first version's views keep their hashes, so stepping back meets the features that it was trained on."""
    train = churn.parts(churn.load(churn.data_file())).train
    first, second = (_document(train, views) for views in (churn.FIRST, churn.SECOND))
    assert len(second.inputs) == len(first.inputs) + 1
    assert first.views.items() < second.views.items()


def test_a_difference_is_measured_against_the_version_that_answered() -> None:
    """Scores of two versions are never compared with each other."""
    expected = {1: {"S1": 0.25}, 2: {"S1": 0.75}}
    replies = [Reply("S1", 0, 1, version=1, score=0.25), Reply("S1", 1, 2, version=2, score=0.625)]
    assert largest_difference(replies, expected) == 0.125


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (Reply("S1", 0, 1, failure="UNAVAILABLE"), "UNAVAILABLE"),
        (Reply("S1", 0, 1, 1, 1, 0.5, 3), "3 features"),
        (Reply("S2", 0, 1, 1, 1, 0.5), "scikit-learn fails"),
        (Reply("S1", 0, 1, 7, 1, 0.5), "version 7"),
    ],
)
def test_a_reply_that_failed_or_was_made_of_defaults_is_no_score(reply: Reply, what: str) -> None:
    """A score from defaults would say nothing of the way that features took."""
    with pytest.raises(ValueError, match=what):
        largest_difference([reply], {1: {"S1": 0.5}})


FIRST_AND_SECOND: list[Standing] = [Standing(5, 1), Standing(7, 1, 2, 1), Standing(8, 2, 2, 1), Standing(9, 2)]
"""Version 1 by revision 5, version 2 on trial from 7 on, with a holdback from 8 on, and alone from 9 on."""


def test_replies_of_the_right_version_under_its_own_revisions_pass() -> None:
    """On trial a version answers for its own share, or leaves that to the control where it fails."""
    require_version([Reply("S1", 0, 1, 1, 5), Reply("S2", 0, 1, 1, 6)], 1, FIRST_AND_SECOND)
    on_trial = [Reply("S1", 0, 1, 2, 7, challenged=True), Reply("S2", 0, 1, 1, 7, challenged=True)]
    held_back = [Reply("S1", 0, 1, 2, 8, challenged=True), Reply("S2", 0, 1, 1, 8)]
    require_named_version([*on_trial, *held_back, Reply("S1", 0, 1, 2, 10)], FIRST_AND_SECOND)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("S1", 0, 1, 2, 6),
        Reply("S1", 0, 1, 1, 9),
        Reply("S1", 0, 1, 1, 4),
        Reply("S1", 0, 1, 2, 7),
        Reply("S1", 0, 1, 2, 9, challenged=True),
    ],
)
def test_a_reply_of_another_version_than_its_revision_names_is_wrong(reply: Reply) -> None:
    """Whatever a caller asked, an answer must trace to the decision that made it so."""
    with pytest.raises(ValueError, match="1 of 1 replies are wrong: the first, for S1, by version"):
        require_named_version([reply], FIRST_AND_SECOND)


def test_a_reply_of_the_former_version_is_wrong_once_the_new_one_is_confirmed() -> None:
    """Even where the revision that it carries names that version."""
    with pytest.raises(ValueError, match="version 2 should have"):
        require_version([Reply("S1", 0, 1, 1, 6)], 2, FIRST_AND_SECOND)


def test_the_audit_trail_says_who_answers_under_which_revision() -> None:
    """A promotion, a rollout to full traffic with a holdback, and one that goes back; holds change nothing."""
    trail = [
        entry(5, "version.promote", "churn/1", "{}"),
        entry(6, "version.register", "churn/2", "{}"),
        entry(7, "rollout.start", "churn/2", '{"phase":"shadow"}'),
        entry(8, "rollout.advance", "churn/2", '{"phase":"canary","outcome":""}'),
        entry(9, "rollout.hold", "churn/2", "{}"),
        entry(10, "rollout.advance", "churn/2", '{"phase":"holdback","outcome":""}'),
        entry(11, "rollout.advance", "churn/2", '{"phase":"holdback","outcome":"promoted"}'),
        entry(12, "rollout.start", "churn/3", '{"phase":"canary"}'),
        entry(13, "rollout.roll_back", "churn/3", '{"phase":"canary","outcome":"rolled_back"}'),
    ]
    assert standings(reversed(trail)) == [
        Standing(0, 0),
        Standing(5, 1),
        Standing(8, 1, 2, 1),
        Standing(10, 2, 2, 1),
        Standing(11, 2),
        Standing(12, 2, 3, 2),
        Standing(13, 2),
    ]


def test_a_reply_is_bad_where_the_version_on_trial_failed_or_was_wrong() -> None:
    """Even where the control answered in its place; what the control decides is no fault of the trial's."""
    truth = {"S1": 1, "S2": 0}
    failed = Reply("S1", 0, 1, 1, 7, challenged=True, decision=churn.CALL)
    wrong = Reply("S2", 0, 1, 2, 7, challenged=True, decision=churn.CALL)
    right = Reply("S1", 0, 1, 2, 7, challenged=True, decision=churn.CALL)
    controls = Reply("S2", 0, 1, 1, 7, decision=churn.CALL)
    assert [is_bad(reply, 2, truth) for reply in (failed, wrong, right, controls)] == [True, True, False, False]


def test_a_rollback_is_timed_until_nothing_is_tried_any_more() -> None:
    """From the first bad reply; calls count from the first that the version was given."""
    truth = dict.fromkeys(("S1", "S2"), 0)
    s = 1_000_000_000
    replies = [
        Reply("S1", 0, 1 * s, 1, 5, decision=churn.LEAVE_ALONE),
        Reply("S1", 1 * s, 2 * s, 2, 7, challenged=True, decision=churn.LEAVE_ALONE),
        Reply("S2", 2 * s, 3 * s, 2, 7, challenged=True, decision=churn.CALL),
        Reply("S2", 5 * s, 6 * s, 2, 7, challenged=True, decision=churn.CALL),
        Reply("S2", 7 * s, 8 * s, 1, 9, decision=churn.CALL),
    ]
    ended = Rollout(challenger=2, phase="ended", outcome="rolled_back")
    found = rollback("quality", Watched(replies, [Sight(4 * s, ended)], 7 * s, 0), truth)
    assert found == Rollback("quality", True, 3.0, 2, 3)


def test_a_rollouts_way_is_told_with_its_seconds() -> None:
    """As a line of the story."""
    s = 1_000_000_000
    sights = [
        Sight(0, Rollout(phase="shadow")),
        Sight(2 * s, Rollout(phase="canary", weight_bps=2_000)),
        Sight(5 * s, Rollout(phase="holdback", weight_bps=9_500)),
        Sight(9 * s, Rollout(phase="ended", outcome="promoted")),
    ]
    assert moves(sights) == "shadow 2 s, 20 % 3 s, all but 5 % 4 s, everybody"


def test_each_planted_version_is_wrong_as_it_should_be() -> None:
    """One fails for half of the subscribers, one calls all but those who leave, one calls as many as it should."""
    frame = churn.load(churn.data_file())
    parts = churn.parts(frame)
    takes = {item.kind: len(RECIPES[item.version].rows(parts.held_out)) for item in PLANTED}
    assert takes["wrong_scores"] == takes["quality"] == 1_000
    assert 400 < takes["failing_calls"] < 600
    quality = next(RECIPES[item.version] for item in PLANTED if item.kind == "quality")
    scores = probability(train(parts, quality), parts.held_out)
    truth = parts.held_out[churn.TARGET].to_numpy()
    assert 0.8 < (scores >= 0.5).sum() / truth.sum() < 1.2
    assert ((scores >= 0.5) != truth).mean() > 0.2


@pytest.mark.parametrize("policy", [policies.GOOD, *(policies.bad(item.kind) for item in PLANTED)])
def test_the_storys_policies_hold(policy: str) -> None:
    """For the model that they are for."""
    train = churn.parts(churn.load(churn.data_file())).train
    read_policy(policy, _document(train, churn.SECOND))


def _document(train: object, views: tuple[str, ...]) -> ModelDocument:
    return churn.document([churn.view_definition(name, train) for name in views], "dana")  # type: ignore[arg-type]
