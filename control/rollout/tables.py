"""The route table of what is committed now."""

from __future__ import annotations

from sqlalchemy import Connection

from control.rollout.records import all_stops, all_trials, ever_champions, tried_versions, views_by_hash
from control.rollout.routes import RouteTable, derive, pinned_hashes
from control.store.store import Store


def current_table(store: Store) -> RouteTable:
    """The table, from one snapshot of the store."""
    with store.read() as connection:
        return table_of(connection, store.history_id)


def table_of(connection: Connection, history_id: str) -> RouteTable:
    """The table of the snapshot that a connection sees."""
    known = list(dict.fromkeys([*ever_champions(connection), *tried_versions(connection)]))
    views = views_by_hash(connection, pinned_hashes(known))
    return derive(history_id, known, views, all_trials(connection), all_stops(connection))
