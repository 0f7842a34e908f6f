"""Stopping a model: nobody answers, whoever is champion, until it is started again. Pure.

A stop is no stage: versions stay what they are, and may be promoted and rolled back meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from control.rollout.version import VersionRecord
from gateway.contract.document import document_from_json
from gateway.contract.errors import Fault, Reason


class Stop(NamedTuple):
    """Whether a model is stopped, why, and the newest audit entry that stopped or started it."""

    model: str
    stopped: bool
    reason: str
    sequence: int


def check_stoppable(model: str, champion: VersionRecord | None, current: Stop | None) -> VersionRecord:
    """The champion that will not answer; a fault where none does."""
    if champion is None:
        raise Fault(Reason.TRANSITION_REFUSED, f"{model} has no champion, so there is nothing to stop", model=model)
    if current is not None and current.stopped:
        raise Fault(Reason.TRANSITION_REFUSED, f"{model} is stopped already: {current.reason}", model=model)
    return champion


def check_startable(model: str, champion: VersionRecord | None, current: Stop | None) -> VersionRecord:
    """The champion that will answer; a fault where the model is not stopped."""
    if current is None or not current.stopped or champion is None:
        raise Fault(Reason.TRANSITION_REFUSED, f"{model} is not stopped", model=model)
    return champion


def has_fallback(champion: VersionRecord) -> bool:
    """Whether callers of a stopped model get a score that its document declares, and not an error."""
    return document_from_json(champion.document_json).fallback is not None


def reasons(stops: Iterable[Stop]) -> dict[str, str]:
    """Why each stopped model is stopped."""
    return {stop.model: stop.reason for stop in stops if stop.stopped}
