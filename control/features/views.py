"""View definitions as the store keeps them: each under the hash of its content, never changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, insert, select

from control.store.store import Unit
from control.store.tables import feature_batches, feature_views
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import FeatureView, view_from_json


class ViewRecord(NamedTuple):
    """A stored view, and how far it was materialized."""

    name: str
    hash: str
    definition_json: str
    applied_at_ns: int
    applied_by: str
    last_sequence: int
    rows: int

    @property
    def definition(self) -> FeatureView:
        """The definition."""
        return view_from_json(self.definition_json)


def apply_view(unit: Unit, view: FeatureView) -> bool:
    """Stores the definition, and returns whether it was new; one that is there already is left as it is."""
    digest = view.digest()
    if unit.connection.execute(select(feature_views.c.hash).where(feature_views.c.hash == digest)).first():
        return False
    sequence = unit.record("view.apply", f"{view.name}@{digest[:12]}", {"view": view.name, "hash": digest})
    unit.connection.execute(
        insert(feature_views).values(
            hash=digest,
            name=view.name,
            definition_json=view.canonical(),
            applied_at_ns=unit.now_ns,
            applied_by=unit.actor,
            sequence=sequence,
        )
    )
    return True


def list_views(connection: Connection, name: str = "") -> list[ViewRecord]:
    """The views of that name, or all, newest first."""
    query = _query()
    if name:
        query = query.where(feature_views.c.name == name)
    return [_record(row) for row in connection.execute(query)]


def find_view(connection: Connection, view_hash: str, name: str = "") -> ViewRecord:
    """The view of that hash, or the newest of that name; raises a fault where there is none."""
    if view_hash:
        query = _query().where(feature_views.c.hash == view_hash)
    else:
        query = _query().where(feature_views.c.name == name)
    row = connection.execute(query.limit(1)).first()
    if row is None:
        asked = f"hash {view_hash[:64]}" if view_hash else f"name {name!r}"
        raise Fault(Reason.VIEW_UNKNOWN, f"no view of {asked} is stored; `interlock features apply` stores one")
    found = _record(row)
    if name and found.name != name:
        raise Fault(Reason.VIEW_UNKNOWN, f"the view of hash {view_hash[:64]} is called {found.name}, not {name!r}")
    return found


def pinned_views(connection: Connection, pins: Iterable[tuple[str, str]]) -> dict[str, FeatureView]:
    """The views of these names and hashes, by name; raises a fault naming the first that is not stored so."""
    return {name: find_view(connection, view_hash, name).definition for name, view_hash in pins}


def _query() -> Select[Any]:
    batches = (
        select(
            feature_batches.c.view_hash,
            func.max(feature_batches.c.sequence).label("last_sequence"),
            func.sum(feature_batches.c.row_count).label("rows"),
        )
        .group_by(feature_batches.c.view_hash)
        .subquery()
    )
    columns = feature_views.c
    return (
        select(columns.name, columns.hash, columns.definition_json, columns.applied_at_ns, columns.applied_by)
        .add_columns(
            func.coalesce(batches.c.last_sequence, 0).label("last_sequence"),
            func.coalesce(batches.c.rows, 0).label("rows"),
        )
        .outerjoin(batches, batches.c.view_hash == columns.hash)
        .order_by(columns.sequence.desc())
    )


def _record(row: Row[Any]) -> ViewRecord:
    return ViewRecord(**row._mapping)
