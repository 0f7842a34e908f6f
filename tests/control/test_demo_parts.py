"""The demo's parts: its directory, its steps, its data, and what it makes of callers' replies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from control.demo import churn
from control.demo.callers import Reply
from control.demo.checks import largest_difference, require_named_version, require_version
from control.demo.directory import MARK, claim
from control.demo.steps import Report, StepFailed, take_all
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
        (Reply("S1", 0, 1, 7, 1, 0.5), "version 7"),
    ],
)
def test_a_reply_that_failed_or_was_made_of_defaults_is_no_score(reply: Reply, what: str) -> None:
    """A score from defaults would say nothing of the way that features took."""
    with pytest.raises(ValueError, match=what):
        largest_difference([reply], {1: {"S1": 0.5}})


def test_replies_of_the_right_version_under_its_own_revisions_pass() -> None:
    """Revision 5 made version 1 the champion, revision 9 version 2."""
    require_version([Reply("S1", 0, 1, 1, 5), Reply("S2", 0, 1, 1, 8)], 1, {1: 5, 2: 9})
    require_version([Reply("S1", 0, 1, 2, 9)], 2, {1: 5, 2: 9})
    require_named_version([Reply("S1", 0, 1, 1, 8), Reply("S2", 0, 1, 2, 9)], {1: 5, 2: 9})


@pytest.mark.parametrize("reply", [Reply("S1", 0, 1, 2, 8), Reply("S1", 0, 1, 1, 9), Reply("S1", 0, 1, 1, 4)])
def test_a_reply_of_another_version_than_its_revision_names_is_wrong(reply: Reply) -> None:
    """Whatever a caller asked, an answer must trace to the decision that made it so."""
    with pytest.raises(ValueError, match="1 of 1 replies are wrong: the first, for S1, by version"):
        require_named_version([reply], {1: 5, 2: 9})


def test_a_reply_of_the_former_version_is_wrong_once_the_new_one_is_confirmed() -> None:
    """Even where the revision that it carries names that version."""
    with pytest.raises(ValueError, match="version 2 should have"):
        require_version([Reply("S1", 0, 1, 1, 8)], 2, {1: 5, 2: 9})


def _document(train: object, views: tuple[str, ...]) -> ModelDocument:
    return churn.document([churn.view_definition(name, train) for name in views], "dana")  # type: ignore[arg-type]
