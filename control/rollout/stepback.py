"""What a gateway's step back means for all: it is recorded once, and rolls back a version that still leads.

A person on the gateway's host said that the version is bad, so no other gateway goes on with it either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from control.rollout.conduct import move_back
from control.rollout.gateway_records import add_step_back, find_step_backs
from control.rollout.lifecycle import Stage
from control.rollout.moves import roll_back
from control.rollout.promotion import time_text
from control.rollout.records import ever_champions
from control.rollout.rollout_records import running
from control.rollout.rollouts import Outcome, Rollout
from control.rollout.version import VersionRecord, is_former
from control.store.store import Store, Unit


class Withdrawal(NamedTuple):
    """A version that a gateway withdrew, as that gateway tells it."""

    number: int
    model: str
    version: int
    digest: str
    kind: str
    actor: str
    reason: str
    time_ns: int
    history_id: str
    revision: int

    @property
    def subject(self) -> str:
        """The version's name."""
        return f"{self.model}/{self.version}"


class Recorded(NamedTuple):
    """A withdrawal that is in the audit trail."""

    number: int
    sequence: int
    revision: int
    """Tables from this revision on take it into account."""


class RollBack(NamedTuple):
    """What follows for all gateways."""

    cause: Withdrawal
    champion: VersionRecord
    target: VersionRecord


def follow(
    withdrawals: Sequence[Withdrawal], known: Sequence[VersionRecord], history_id: str, told_before: frozenset[int]
) -> RollBack | None:
    """The rollback that a gateway's withdrawals call for: none where the version no longer leads, or leads anew since.

    `known` are the versions that are or were champion; those in `told_before` are recorded already, and only pass over
    their versions.
    """
    champion = next((record for record in known if record.stage is Stage.CHAMPION), None)
    if champion is None:
        return None
    cause = next(
        (
            one
            for one in withdrawals
            if one.digest == champion.digest
            and one.number not in told_before
            and (one.history_id != history_id or champion.champion_sequence <= one.revision)
        ),
        None,
    )
    withdrawn = {one.digest for one in withdrawals}
    former = [record for record in known if is_former(record) and record.digest not in withdrawn]
    if cause is None or not former:
        return None
    return RollBack(cause, champion, max(former, key=lambda record: record.champion_sequence))


def ends(one: Withdrawal, rollout: Rollout, history_id: str) -> bool:
    """Whether a withdrawal ends a rollout: it is of its challenger, by a gateway that knew of this rollout then.

    One that comes late speaks of an earlier trial of the same bytes, which were approved anew since.
    """
    known = one.history_id != history_id or rollout.rollout_id <= one.revision
    return known and one.digest == rollout.challenger_digest


def overruled(one: Withdrawal, rollout: Rollout) -> bool:
    """Whether a gateway's evidence came too late: who promoted against it left only the guards to go back on that."""
    return one.kind == "evidence" and rollout.without_evidence and one.digest == rollout.challenger_digest


def record_step_backs(
    store: Store, actor: str, gateway_id: str, withdrawals: Sequence[Withdrawal], revision: int
) -> tuple[Recorded, ...]:
    """Records each of a gateway's withdrawals once, whatever is repeated, and says which entries they are.

    `revision` is that of the newest table: what it says takes those into account that change nothing.
    """
    with store.read() as connection:
        known = find_step_backs(connection, gateway_id)
    if all(one.number in known for one in withdrawals):
        return tuple(Recorded(one.number, *known[one.number]) for one in withdrawals)
    with store.unit(actor) as unit:
        for model in sorted({one.model for one in withdrawals}):
            _record(unit, store.history_id, gateway_id, [one for one in withdrawals if one.model == model], revision)
        found = find_step_backs(unit.connection, gateway_id)
    return tuple(Recorded(one.number, *found[one.number]) for one in withdrawals)


def _record(unit: Unit, history_id: str, gateway_id: str, withdrawals: Sequence[Withdrawal], revision: int) -> None:
    """One model's withdrawals: an entry for each, and the rollback that follows."""
    told_before = frozenset(find_step_backs(unit.connection, gateway_id))
    fresh = [one for one in withdrawals if one.number not in told_before]
    rollouts = running(unit.connection, withdrawals[0].model)
    heeded = [one for one in withdrawals if not any(overruled(one, rollout) for rollout in rollouts)]
    entries = {
        one.number: unit.record("version.step_back", one.subject, {"gateway_id": gateway_id, **one._asdict()})
        for one in fresh
    }
    for rollout in rollouts:
        if cause := next((one for one in fresh if one in heeded and ends(one, rollout, history_id)), None):
            revision = _end(unit, gateway_id, rollout, cause)
    # Now that no rollout has its hand in it any more: does a withdrawn version still lead?
    planned = follow(heeded, ever_champions(unit.connection, withdrawals[0].model), history_id, told_before)
    if planned is not None:
        revision = _roll_back(unit, gateway_id, planned)
    for one in fresh:
        add_step_back(unit.connection, gateway_id, one.number, (entries[one.number], revision))


def _end(unit: Unit, gateway_id: str, rollout: Rollout, cause: Withdrawal) -> int:
    """Ends a rollout whose challenger a gateway withdrew: by its guards, which quarantine, by evidence, or by hand."""
    outcome = Outcome.QUARANTINED if cause.kind == "guard" else Outcome.ROLLED_BACK
    reason = f"gateway {gateway_id} withdrew it at {time_text(cause.time_ns)}: {cause.reason or 'no reason given'}"
    facts = {"by": "gateway", "gateway_id": gateway_id, "kind": cause.kind, "time_ns": cause.time_ns}
    return move_back(unit, rollout, outcome, reason, facts).sequence


def _roll_back(unit: Unit, gateway_id: str, planned: RollBack) -> int:
    cause, champion, target = planned
    reason = (
        f"{cause.actor} stepped gateway {gateway_id} back at {time_text(cause.time_ns)}: "
        f"{cause.reason or 'no reason given'}"
    )
    return roll_back(unit, champion.model, target.version, reason).revision
