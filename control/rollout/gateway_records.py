"""What gateways tell, as the store keeps it: when they were last there, their step backs, which versions are pinned."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from control.store.store import Store
from control.store.tables import gateways, pins, step_backs


class SeenGateway(NamedTuple):
    """A gateway, when its connection was last begun or ended, and what it had in force then."""

    gateway_id: str
    seen_ns: int
    revision: int


def note_gateway(store: Store, actor: str, gateway_id: str, revision: int) -> None:
    """Notes that a gateway is there, or was until now. No decision, so no audit entry."""
    with store.unit(actor) as unit:
        values = {"seen_ns": unit.now_ns, "revision": revision}
        insertion = upsert(gateways).values(gateway_id=gateway_id, **values)
        unit.execute_unaudited(insertion.on_conflict_do_update(index_elements=["gateway_id"], set_=values))


def gateways_since(connection: Connection, since_ns: int) -> list[SeenGateway]:
    """The gateways that were there since then, by id."""
    columns = [gateways.c[name] for name in SeenGateway._fields]
    query = select(*columns).where(gateways.c.seen_ns >= since_ns).order_by(gateways.c.gateway_id)
    return [SeenGateway(*row) for row in connection.execute(query)]


def find_step_backs(connection: Connection, gateway_id: str) -> dict[int, tuple[int, int]]:
    """By number, the audit entry that records each of a gateway's step backs, and the revision that heeds it."""
    query = select(step_backs.c.number, step_backs.c.sequence, step_backs.c.revision)
    rows = connection.execute(query.where(step_backs.c.gateway_id == gateway_id))
    return {number: (sequence, revision) for number, sequence, revision in rows}


def add_step_back(connection: Connection, gateway_id: str, number: int, recorded: tuple[int, int]) -> None:
    """Notes which audit entry records a step back, and which revision heeds it."""
    sequence, revision = recorded
    connection.execute(
        insert(step_backs).values(gateway_id=gateway_id, number=number, sequence=sequence, revision=revision)
    )


def note_pins(store: Store, actor: str, gateway_id: str, pinned: tuple[tuple[str, int, int], ...]) -> None:
    """Keeps when callers of a gateway last named each of these versions. No decision, so no audit entry."""
    with store.unit(actor) as unit:
        for model, version, last_ns in pinned:
            insertion = upsert(pins).values(gateway_id=gateway_id, model=model, version=version, last_ns=last_ns)
            newest = {"last_ns": func.max(pins.c.last_ns, last_ns)}
            keys = ["gateway_id", "model", "version"]
            unit.execute_unaudited(insertion.on_conflict_do_update(index_elements=keys, set_=newest))


def last_pinned(connection: Connection, model: str, version: int) -> tuple[int, list[str]]:
    """When callers last named the version, 0 for never, and the gateways that they named it at, the last one first."""
    query = select(pins.c.last_ns, pins.c.gateway_id).where(pins.c.model == model, pins.c.version == version)
    rows = list(connection.execute(query.order_by(pins.c.last_ns.desc())))
    return (rows[0].last_ns if rows else 0), [row.gateway_id for row in rows]
