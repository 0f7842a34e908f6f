"""Trials in the store: begun only where that is allowed, ended by whoever starts without it."""

from __future__ import annotations

from control.rollout.lifecycle import Stage
from control.rollout.records import all_trials, end_trial, find_version, save_trial, versions_in
from control.rollout.trial import Trial, check_triable
from control.store.store import Store, Unit


def put_on_trial(unit: Unit, model: str, version: int, allowed: bool) -> int:
    """Puts the version on trial within the unit, in the place of any other of its model, and returns the revision."""
    record = find_version(unit.connection, model, version)
    champions = versions_in(unit.connection, frozenset({Stage.CHAMPION}), model)
    check_triable(record, next(iter(champions), None), allowed)
    sequence = unit.record("version.try", record.subject, {"digest": record.digest, "stage": record.stage})
    save_trial(unit.connection, Trial(model, version, sequence))
    return sequence


def end_trials(store: Store, actor: str) -> None:
    """Ends what is on trial: what a control plane does first that was not started for trial."""
    with store.read() as connection:
        running = [trial for trial in all_trials(connection) if trial.version]
    if not running:
        return
    with store.unit(actor) as unit:
        for model, version, _ in running:
            sequence = unit.record(
                "version.end_trial", f"{model}/{version}", {"why": "control.allow_unapproved is off"}
            )
            end_trial(unit.connection, model, sequence)
