"""Rollouts and their evidence as the store keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, delete, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from control.rollout.case import Phase
from control.rollout.records import find_version, model_names, versions_in
from control.rollout.rollouts import STANDING, Kind, Outcome, Rollout
from control.rollout.version import VersionRecord
from control.store.store import Unit
from control.store.tables import evidence_heads, evidence_units, rollouts
from gateway.contract.errors import Fault, Reason

_COLUMNS = [rollouts.c[name] for name in Rollout._fields]
PROMISED = frozenset(
    {"model", "kind", "challenger", "challenger_digest", "control", "control_digest", "policy_json", "salt"}
    | {"rollout_id", "started_by", "started_ns"}
)
"""Columns that never change."""


class EvidenceRow(NamedTuple):
    """One unit that counts, as it is kept; the first four fields say which it is."""

    kind: int
    metric: int
    """Bit of the metric for a first bad event; 0 for a first row."""
    step: int
    """Of a first row; 0 for a first bad event."""
    unit: str
    challenger: bool
    weight_bps: int
    bad: int
    score_bin: int


class Head(NamedTuple):
    """How far one gateway's count is kept, and what else it said."""

    gateway_id: str
    number: int = 0
    rows_lost: int = 0
    rows_lost_before: int = 0
    step: int = 0
    shadow_json: str = "{}"
    received_ns: int = 0


_KEY: Final = EvidenceRow._fields[:4]
_KNOWN: Final = text(
    f"SELECT {', '.join(f'u.{name}' for name in _KEY)} FROM json_each(:rows) AS told "  # noqa: S608 - names of ours
    "CROSS JOIN evidence_units AS u "  # in this order: what is told is little, what is kept may be much
    "ON u.rollout_id = :rollout_id AND "
    + " AND ".join(f"u.{name} = json_extract(told.value, '$[{place}]')" for place, name in enumerate(_KEY))
)
_KEEP: Final = text(
    f"INSERT INTO evidence_units (rollout_id, {', '.join(EvidenceRow._fields)}) SELECT :rollout_id, "  # noqa: S608 - names of ours
    + ", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(EvidenceRow._fields)))
    + " FROM json_each(:rows)"
)


def followed(old: Head, head: Head, told: int) -> Head:
    """What is kept of a gateway after a report that ends with the number `told`: what was lost before its step stands
    apart, and nothing is taken back that was said before."""
    return head._replace(
        number=max(old.number, told),
        rows_lost=max(old.rows_lost, head.rows_lost),
        rows_lost_before=old.rows_lost_before if old.step == head.step else old.rows_lost,
        shadow_json=head.shadow_json if head.shadow_json != "{}" else old.shadow_json,
    )


def running(connection: Connection, model: str = "") -> list[Rollout]:
    """The rollouts that have not ended, of one model or of all, the oldest first."""
    query = select(*_COLUMNS).where(rollouts.c.outcome == "")
    if model:
        query = query.where(rollouts.c.model == model)
    return [_rollout(row) for row in connection.execute(query.order_by(rollouts.c.rollout_id))]


def listed(connection: Connection, model: str, ended: bool) -> list[Rollout]:
    """Rollouts, the newest first; a fault where there is no such model."""
    model_names(connection, model)
    query = select(*_COLUMNS).order_by(rollouts.c.rollout_id.desc())
    if model:
        query = query.where(rollouts.c.model == model)
    if not ended:
        query = query.where(rollouts.c.outcome == "")
    return [_rollout(row) for row in connection.execute(query)]


def find_rollout(connection: Connection, rollout_id: int, model: str = "") -> Rollout:
    """A rollout by its id, or for 0 the model's running, else newest one; a fault where there is none."""
    query = select(*_COLUMNS)
    if rollout_id:
        query = query.where(rollouts.c.rollout_id == rollout_id)
    else:
        query = query.where(rollouts.c.model == model)
        query = query.order_by(rollouts.c.outcome != "", rollouts.c.kind, rollouts.c.rollout_id.desc())
    row = connection.execute(query.limit(1)).one_or_none()
    if row is None:
        if not rollout_id:
            model_names(connection, model)  # a fault where there is no such model
        which = f"no rollout has the id {rollout_id}" if rollout_id else f"{model} has no rollout"
        raise Fault(Reason.ROLLOUT_UNKNOWN, f"{which}; `interlock rollout list --ended` says which there are")
    return _rollout(row)


def active(connection: Connection, model: str) -> Rollout | None:
    """The model's one rollout that may change who answers."""
    return next((one for one in running(connection, model) if one.kind is Kind.ROLLOUT), None)


def newest_change(connection: Connection) -> int:
    """The newest audit entry that changed what the route table says of any rollout, also of those that ended."""
    return max(connection.scalars(select(rollouts.c.sequence)), default=0)


def concerned(connection: Connection, rollout: Rollout) -> list[VersionRecord]:
    """The versions that a move of the rollout may change: challenger, control, champion and standby."""
    named = [find_version(connection, rollout.model, number) for number in (rollout.challenger, rollout.control)]
    standing = versions_in(connection, STANDING, rollout.model)
    return list({one.version: one for one in [*named, *standing]}.values())


def add_rollout(unit: Unit, rollout: Rollout) -> None:
    """Stores a new rollout."""
    unit.connection.execute(insert(rollouts).values(**rollout._asdict()))


def save_rollout(unit: Unit, rollout: Rollout) -> None:
    """Stores what changed of a rollout."""
    changed = {name: value for name, value in rollout._asdict().items() if name not in PROMISED}
    unit.connection.execute(update(rollouts).where(rollouts.c.rollout_id == rollout.rollout_id).values(changed))


def forget_units(unit: Unit, rollout_id: int) -> None:
    """Removes the units of a rollout that ended: hashes of entity keys are kept no longer than they are needed."""
    unit.execute_unaudited(delete(evidence_units).where(evidence_units.c.rollout_id == rollout_id))


def keep_units(unit: Unit, rollout_id: int, rows: Iterable[EvidenceRow]) -> list[EvidenceRow]:
    """Keeps units, each the first time that it is told; returns those that were not known.

    All in two statements, whose rows are one parameter: thousands of entities a second are new in a busy step.
    """
    told: dict[tuple[int, int, int, str], EvidenceRow] = {}
    for row in rows:
        told.setdefault(row[:4], row)
    if not told:
        return []
    found = unit.connection.execute(_KNOWN.bindparams(rollout_id=rollout_id, rows=json.dumps(list(told))))
    known = {tuple(row) for row in found}
    new = [row for key, row in told.items() if key not in known]
    unit.execute_unaudited(_KEEP.bindparams(rollout_id=rollout_id, rows=json.dumps(new)))
    return new


def all_units(connection: Connection, rollout_id: int) -> Iterator[EvidenceRow]:
    """Every unit of a rollout, as it is read: there may be millions."""
    columns = [evidence_units.c[name] for name in EvidenceRow._fields]
    query = select(*columns).where(evidence_units.c.rollout_id == rollout_id)
    return (EvidenceRow(*row) for row in connection.execute(query))


def heads(connection: Connection, rollout_id: int) -> dict[str, Head]:
    """What each gateway said last of a rollout, by its id."""
    columns = [evidence_heads.c[name] for name in Head._fields]
    query = select(*columns).where(evidence_heads.c.rollout_id == rollout_id)
    return {row.gateway_id: Head(*row) for row in connection.execute(query)}


def save_head(unit: Unit, rollout_id: int, head: Head) -> None:
    """Puts a gateway's head in the place of its former one."""
    values = head._asdict() | {"rollout_id": rollout_id}
    statement = insert_or(evidence_heads).values(values)
    keys = [evidence_heads.c.rollout_id, evidence_heads.c.gateway_id]
    unit.execute_unaudited(statement.on_conflict_do_update(index_elements=keys, set_=values))


def _rollout(row: Row[*tuple[Any, ...]]) -> Rollout:
    found = Rollout(*row)
    return found._replace(kind=Kind(found.kind), phase=Phase(found.phase), outcome=Outcome(found.outcome))
