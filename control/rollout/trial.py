"""Trials: the one way in which a version that nobody approved answers, and what must hold for it. Pure.

A trial is no stage: the table of the lifecycle knows nothing of it, and a version on trial is where it was. The route
table heeds a trial only where its model has no champion, and only a control plane that was started for trial makes one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from control.rollout.lifecycle import Stage
from control.rollout.version import VersionRecord
from gateway.contract.document import document_from_json
from gateway.contract.errors import Fault, Reason

TRIABLE: Final = frozenset({Stage.REGISTERED, Stage.APPROVED})
"""The stages in which a version may be on trial: a decision against it ends the trial."""


class Trial(NamedTuple):
    """The version of a model that is on trial, 0 where none is any more, and the audit entry that says so."""

    model: str
    version: int
    sequence: int


def check_triable(record: VersionRecord, champion: VersionRecord | None, allowed: bool) -> None:
    """Raises a fault that says why the version must not be tried here."""
    if not allowed:
        raise Fault(
            Reason.TRIAL_REFUSED,
            "this control plane was not started for trial (control.allow_unapproved); "
            f"`interlock approval approve {record.subject}`, by somebody else than {record.submitted_by}, and then "
            f"`interlock model promote {record.subject}` put the version into traffic",
        )
    if champion is not None:
        raise Fault(
            Reason.TRIAL_REFUSED,
            f"{champion.subject} is the approved champion, and nothing unapproved takes its place; approve and promote "
            f"{record.subject}, or try the file under another name (--name)",
        )
    if record.stage not in TRIABLE:
        raise Fault(Reason.TRIAL_REFUSED, f"{record.subject} is {record.stage}; register the file anew to try it")
    if views := document_from_json(record.document_json).views:
        raise Fault(
            Reason.TRIAL_REFUSED,
            f"{record.subject} takes stored features ({', '.join(views)}), and a trial has none; "
            "give its inputs in the request, or have it approved",
        )


def on_trial(
    trials: Iterable[Trial], records: Iterable[VersionRecord], champions: Iterable[VersionRecord]
) -> list[VersionRecord]:
    """The versions that answer on trial, each with the entry that put it there as that of its stage."""
    led = {record.model for record in champions}
    tried = {(trial.model, trial.version): trial.sequence for trial in trials if trial.model not in led}
    return [
        record._replace(stage_sequence=tried[record[:2]])
        for record in records
        if record[:2] in tried and record.stage in TRIABLE
    ]


def changed_at(trials: Iterable[Trial], records: Iterable[VersionRecord]) -> int:
    """The newest audit entry that changed who is on trial: one about the trial, or a decision against its version."""
    held = {(trial.model, trial.version): trial.sequence for trial in trials}
    decided = [record.stage_sequence for record in records if record[:2] in held and record.stage not in TRIABLE]
    return max([*held.values(), *decided], default=0)
