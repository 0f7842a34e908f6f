"""The lifecycle table, walked: nothing reaches live traffic without an approval, and retired is the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.rollout.lifecycle import LIVE, STATUS, TRANSITIONS, Event, Stage, advance
from gateway.contract.errors import Fault, Reason


def reachable(without: frozenset[Event] = frozenset()) -> set[Stage]:
    """Every stage that a registered version can come to, never by one of these events."""
    found, frontier = {Stage.REGISTERED}, [Stage.REGISTERED]
    while frontier:
        here = frontier.pop()
        for (stage, event), after in TRANSITIONS.items():
            if stage is here and event not in without and after not in found:
                found.add(after)
                frontier.append(after)
    return found


def paths(stage: Stage = Stage.REGISTERED, length: int = 6) -> Iterator[list[tuple[Stage, Event]]]:
    """Every path of the table, up to a length."""
    yield []
    if length:
        for (before, event), after in TRANSITIONS.items():
            if before is stage:
                yield from ([(before, event), *rest] for rest in paths(after, length - 1))


def test_nothing_reaches_live_traffic_without_an_approval() -> None:
    """Take APPROVE out of the table, and no path leads to a stage that answers callers.

    The one exception is no stage and not in this table: trials, which tests/control/test_trial.py holds to theirs.
    """
    assert not reachable(frozenset({Event.APPROVE})) & LIVE
    assert reachable() & LIVE


def test_every_path_into_live_traffic_has_one_approval_before_it() -> None:
    """Walks every path of up to six moves."""
    for path in paths():
        live = [index for index, move in enumerate(path) if TRANSITIONS[move] in LIVE]
        if live:
            assert Event.APPROVE in [event for _, event in path[: live[0]]]


def test_retired_and_rejected_versions_never_come_back() -> None:
    """Nothing leaves RETIRED, and REJECTED leads there only."""
    assert not [move for move in TRANSITIONS if move[0] is Stage.RETIRED]
    assert {after for (stage, _), after in TRANSITIONS.items() if stage is Stage.REJECTED} == {Stage.RETIRED}


def test_the_champion_cannot_be_retired() -> None:
    """It leaves only by another taking its place, which in a holdback is the version before."""
    leaving = {event for stage, event in TRANSITIONS if stage is Stage.CHAMPION}
    assert leaving == {Event.SUPERSEDE, Event.ROLL_BACK, Event.QUARANTINE}


def test_a_version_that_was_rolled_back_answers_again_only_after_a_new_approval() -> None:
    """APPROVE leads out of ROLLED_BACK, and RETIRE, and nothing else."""
    leaving = {event for stage, event in TRANSITIONS if stage is Stage.ROLLED_BACK}
    assert leaving == {Event.APPROVE, Event.RETIRE}


def test_a_standby_can_be_promoted_back() -> None:
    """Stepping back and forth needs no further approval."""
    assert advance(advance(Stage.CHAMPION, Event.SUPERSEDE, "m/1"), Event.PROMOTE, "m/1") is Stage.CHAMPION


def test_every_stage_has_a_status_in_the_words_of_operators() -> None:
    """The projection is total."""
    assert set(STATUS) == set(Stage)
    assert set(STATUS.values()) == {"development", "staging", "production", "archived"}


@given(st.sampled_from(Stage), st.sampled_from(Event))
def test_a_move_that_the_table_lacks_names_the_stage_and_what_it_allows(stage: Stage, event: Event) -> None:
    """Everything else is refused with a message to act on."""
    if (stage, event) in TRANSITIONS:
        assert advance(stage, event, "churn/2") is TRANSITIONS[stage, event]
        return
    with pytest.raises(Fault) as refused:
        advance(stage, event, "churn/2")
    assert refused.value.reason is Reason.TRANSITION_REFUSED
    assert f"churn/2 is {stage}" in refused.value.message
    for known, allowed in TRANSITIONS:
        if known is stage:
            assert allowed in refused.value.message
