"""Routes are derived: one table for the same records, whatever their order, and it names the entry that caused it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.rollout.lifecycle import Stage
from control.rollout.promotion import promotion_moves
from control.rollout.rollouts import check_comparable
from control.rollout.routes import derive, pinned_hashes
from control.rollout.version import PinnedViewRecord, VersionRecord
from gateway.contract.document import RequestInput
from gateway.contract.errors import Fault, Reason
from tests.control.planes import document_of, view_named

VIEWS = [view_named(name) for name in ("usage", "billing")]
DEFINITIONS = {view.digest(): PinnedViewRecord(view.digest(), view.canonical()) for view in VIEWS}
DOCUMENTS = [document_of("m", views).canonical() for views in ([], VIEWS[:1], VIEWS)]


def record(model: str, version: int, stage: Stage, sequence: int, document_json: str = DOCUMENTS[0]) -> VersionRecord:
    """A version with the rest made up from its number."""
    return VersionRecord(
        model, version, stage, sequence, f"digest {version}", "m" * 64, "g" * 64, document_json, "ana", 1, version
    )


@st.composite
def histories(draw: st.DrawFn) -> list[VersionRecord]:
    """Versions of some models, at most one champion each, with entry numbers of their own."""
    numbers = iter(draw(st.permutations(range(1, 41))))
    found = []
    for model in draw(st.lists(st.sampled_from("abcd"), unique=True)):
        stages = draw(st.lists(st.sampled_from([stage for stage in Stage if stage is not Stage.CHAMPION]), max_size=4))
        if draw(st.booleans()):
            stages.append(Stage.CHAMPION)
        for version, stage in enumerate(stages, start=1):
            found.append(record(model, version, stage, next(numbers), draw(st.sampled_from(DOCUMENTS))))
    return found


@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(records: list[VersionRecord], shuffled: random.Random) -> None:
    """The same records make the same table."""
    table = derive("h", records, DEFINITIONS)
    other = list(records)
    shuffled.shuffle(other)
    assert derive("h", other, DEFINITIONS) == table


@given(histories())
def test_exactly_the_champions_answer_and_every_view_they_pin_is_there(records: list[VersionRecord]) -> None:
    """No other stage has a route, and no view is named twice or left out."""
    table = derive("h", records, DEFINITIONS)
    champions = {r.model: r for r in records if r.stage is Stage.CHAMPION}
    assert {route.model: route.champion.version for route in table.models} == {
        model: champion.version for model, champion in champions.items()
    }
    assert {view.hash for view in table.views} == pinned_hashes(champions.values())
    assert len({view.hash for view in table.views}) == len(table.views)


@given(histories())
def test_the_revision_is_the_newest_entry_that_made_a_champion(records: list[VersionRecord]) -> None:
    """0 before the first; entries about versions without a route change nothing."""
    table = derive("h", records, DEFINITIONS)
    assert table.revision == max((r.stage_sequence for r in records if r.stage is Stage.CHAMPION), default=0)
    beside = [*records, record("z", 9, Stage.RETIRED, 99)]
    assert derive("h", beside, DEFINITIONS) == table


@given(st.lists(st.integers(1, 4), max_size=12))
def test_promotions_back_and_forth_never_hold_a_place_twice(promoted: list[int]) -> None:
    """At every single move there is at most one champion and one standby, and the revision only grows."""
    state = {number: record("m", number, Stage.APPROVED, number) for number in range(1, 5)}
    revision = 0
    for sequence, number in enumerate(promoted, start=10):
        holders = [r for r in state.values() if r.stage in (Stage.CHAMPION, Stage.STANDBY)]
        before = state[number]
        if before.stage is Stage.CHAMPION:
            with pytest.raises(Fault):
                promotion_moves(before, holders)
            continue
        former = next((r.version for r in holders if r.stage is Stage.CHAMPION), None)
        for move in promotion_moves(before, holders):
            state[move.version] = move._replace(stage_sequence=sequence)
            stages = [r.stage for r in state.values()]
            assert stages.count(Stage.CHAMPION) <= 1
            assert stages.count(Stage.STANDBY) <= 1
        assert state[number].stage is Stage.CHAMPION
        assert former is None or state[former].stage is Stage.STANDBY
        table = derive("h", state.values(), {})
        assert table.revision == sequence > revision
        revision = table.revision


def taking_more(default: float | None) -> VersionRecord:
    """A second version, with an input that the first one has not."""
    document = document_of("m", [])
    first = document.inputs[0]
    assert isinstance(first, RequestInput)
    more = RequestInput(request="more", type=first.type, feeds=first.feeds, default=default)
    changed = document.model_copy(update={"inputs": (*document.inputs, more)})
    return record("m", 2, Stage.APPROVED, 2, changed.canonical())


def test_a_version_that_takes_what_callers_do_not_send_is_refused_with_the_ways_out() -> None:
    """A default, or a name of its own; with a default it is tried."""
    champion = record("m", 1, Stage.CHAMPION, 1)
    check_comparable(taking_more(default=1.0), champion)
    with pytest.raises(Fault, match=r"inputs\.more: .* declare one, or register under another name") as refused:
        check_comparable(taking_more(default=None), champion)
    assert refused.value.reason is Reason.ROLLOUT_REFUSED
