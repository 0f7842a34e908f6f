"""Alerts about how versions do, of which nothing follows by itself: a person rolls back, by one command. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from control.v1 import rollout_pb2 as pb
from gateway.contract.alerts import Alert, AlertText, alert

LEAST_FAILED: Final = 20
"""Rows that must have failed in the last minutes, or a handful of calls at night would raise an alert."""
LEAST_PCT: Final = 5
"""The share of the last minutes' rows that must have, in percent."""
TIMES: Final = 3
"""How many times the share of the rest of the hour that must be: what fails always has been seen before."""


class Failing(NamedTuple):
    """Rows that a model's versions answered or by their own fault did not, and those that nobody got an answer to."""

    recent_rows: int
    """In the last five minutes."""
    recent_failed: int
    earlier_rows: int
    """In the rest of the hour."""
    earlier_failed: int


def decay(parts: Iterable[Failing]) -> Failing | None:
    """The sum over gateways, where it says that a model fails far more often than it did; None where it does not."""
    found = Failing(*(sum(column) for column in zip(Failing(0, 0, 0, 0), *parts, strict=True)))
    if found.recent_failed < LEAST_FAILED or found.recent_failed * 100 < LEAST_PCT * found.recent_rows:
        return None
    usual = found.earlier_failed * found.recent_rows
    return found if found.recent_failed * found.earlier_rows >= TIMES * usual else None


def decay_alerts(model: str, kept: Sequence[int], parts: Iterable[Failing]) -> list[AlertText]:
    """Says that a champion decays, and the command that has the last of the kept versions answer again."""
    found = decay(parts)
    if found is None:
        return []
    share = found.recent_failed / found.recent_rows
    before = f"{found.earlier_failed:,} of {found.earlier_rows:,} in the hour before"
    way_out = (
        f"`interlock rollback {model} --reason WHY` has {model}/{kept[0]} answer again"
        if kept
        else f"no former champion is kept; `interlock model stop {model} --reason WHY` has nobody answer"
    )
    words = (
        f"{found.recent_failed:,} of {found.recent_rows:,} rows ({share:.0%}) failed in the last 5 minutes, {before}"
    )
    return [alert(Alert.CHAMPION_DECAYS, f"{words}; {way_out}")]


def harm_alerts(rollout: pb.Rollout) -> list[AlertText]:
    """Says that a version does harm which a person promoted without evidence, so that only a person takes it back."""
    if not rollout.without_evidence or rollout.outcome:
        return []
    harms = [found for found in rollout.findings if found.test == "harm" and found.reached]
    return [
        alert(
            Alert.PROMOTED_VERSION_HARMS,
            f"{rollout.model}/{rollout.challenger} was promoted without evidence, and does harm ({found.metric}: "
            f"{found.challenger:,} bad, {found.control:,} in {rollout.model}/{rollout.control}); "
            f"`interlock rollback {rollout.model} --reason WHY` takes it back",
        )
        for found in harms
    ]
