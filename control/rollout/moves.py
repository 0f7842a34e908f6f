"""What moves a model's champion, each within one unit: the records and the audit entry that says why, together."""

from __future__ import annotations

from typing import NamedTuple

from control.rollout.case import Phase
from control.rollout.conduct import move_back, release
from control.rollout.lifecycle import Stage
from control.rollout.promotion import check_promotable, promotion_moves, rollback_moves, rollback_target
from control.rollout.records import (
    all_stops,
    approvers,
    end_trial,
    ever_champions,
    find_version,
    model_names,
    newest_batches,
    save,
    save_stop,
    versions_in,
)
from control.rollout.rollout_records import active
from control.rollout.rollouts import STANDING, Outcome
from control.rollout.routes import pinned_hashes
from control.rollout.stopping import Stop, check_startable, check_stoppable, has_fallback
from control.rollout.version import VersionRecord
from control.store.store import Unit
from gateway.contract.errors import Fault, Reason


class RolledBack(NamedTuple):
    """A rollback."""

    revision: int
    from_version: int
    to_version: int


def promote(unit: Unit, model: str, version: int) -> int:
    """Makes the version champion within the unit and returns the revision."""
    record = find_version(unit.connection, model, version)
    hashes = pinned_hashes([record])
    approved_by = approvers(unit.connection, record)
    feature_sequence = check_promotable(record, approved_by, newest_batches(unit.connection, hashes))
    holders = versions_in(unit.connection, STANDING, model)
    if champion := next((holder for holder in holders if holder.stage is Stage.CHAMPION), None):
        raise Fault(
            Reason.TRANSITION_REFUSED,
            f"{champion.subject} answers already, and only a model's first version is promoted directly; "
            f"`interlock rollout start {record.model} {record.version}` tries this one against it",
        )
    facts = {
        "digest": record.digest,
        "approved_by": approved_by,
        "instead_of": [holder.version for holder in holders if holder.stage is Stage.CHAMPION],
        "feature_sequence": feature_sequence,
    }
    sequence = unit.record("version.promote", record.subject, facts)
    *superseded, promoted = promotion_moves(record, holders)
    for move in superseded:
        save(unit.connection, move._replace(stage_sequence=sequence))
    save(
        unit.connection,
        promoted._replace(stage_sequence=sequence, champion_sequence=sequence, feature_sequence=feature_sequence),
    )
    end_trial(unit.connection, model, sequence)
    return sequence


def roll_back(unit: Unit, model: str, to_version: int, reason: str) -> RolledBack:
    """Puts a former champion in the champion's place within the unit, and says which in which.

    A version that answers beside the champion goes first: it is what changed last. So does one that was promoted by a
    rollout whose holdback still compares; a former champion that is named goes on from there. A version in shadow
    answers nobody: its rollout is over, since what it is compared with goes, and it may be started again.
    """
    model_names(unit.connection, model)
    rollout = active(unit.connection, model)
    if rollout is not None and rollout.phase is Phase.SHADOW:
        release(unit, rollout, "the champion that it was compared with is rolled back")
    elif rollout is not None:
        over = move_back(unit, rollout, Outcome.ROLLED_BACK, reason, {"by": "person"})
        if to_version in (0, rollout.control):
            return RolledBack(over.sequence, rollout.challenger, rollout.control)
    known = ever_champions(unit.connection, model)
    champion = next((record for record in known if record.stage is Stage.CHAMPION), None)
    if champion is None:
        raise Fault(Reason.TRANSITION_REFUSED, f"{model} has no champion, so there is nothing to roll back")
    if champion.version == to_version:
        raise Fault(Reason.TRANSITION_REFUSED, f"{champion.subject} is the champion already")
    target = rollback_target(model, known, to_version)
    facts = {"digest": champion.digest, "to_version": target.version, "to_digest": target.digest, "reason": reason}
    sequence = unit.record("version.roll_back", champion.subject, facts)
    rolled_back, reinstated = rollback_moves(champion, target)
    save(unit.connection, rolled_back._replace(stage_sequence=sequence))
    save(unit.connection, reinstated._replace(stage_sequence=sequence, champion_sequence=sequence))
    return RolledBack(sequence, champion.version, target.version)


def stop(unit: Unit, model: str, reason: str) -> tuple[int, bool]:
    """Stops a model within the unit; returns the revision, and whether callers get a fallback."""
    champion, current = _champion_and_stop(unit, model)
    stopped = check_stoppable(model, champion, current)
    fallback = has_fallback(stopped)
    sequence = unit.record("model.stop", model, {"version": stopped.version, "reason": reason, "fallback": fallback})
    save_stop(unit.connection, Stop(model, True, reason, sequence))
    return sequence, fallback


def start(unit: Unit, model: str, reason: str) -> tuple[int, int]:
    """Starts a stopped model within the unit; returns the revision, and the version that answers."""
    champion, current = _champion_and_stop(unit, model)
    started = check_startable(model, champion, current)
    sequence = unit.record("model.start", model, {"version": started.version, "reason": reason})
    save_stop(unit.connection, Stop(model, False, "", sequence))
    return sequence, started.version


def _champion_and_stop(unit: Unit, model: str) -> tuple[VersionRecord | None, Stop | None]:
    model_names(unit.connection, model)
    champions = versions_in(unit.connection, frozenset({Stage.CHAMPION}), model)
    return next(iter(champions), None), next(iter(all_stops(unit.connection, model)), None)
