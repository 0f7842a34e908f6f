"""The route table of what is committed now."""

from __future__ import annotations

from sqlalchemy import Connection

from control.rollout.records import (
    all_stops,
    all_trials,
    ever_champions,
    find_version,
    tried_versions,
    views_by_hash,
)
from control.rollout.rollout_records import newest_change, running
from control.rollout.routes import Rollouts, RouteTable, derive, pinned_hashes
from control.store.store import Store


def current_table(store: Store) -> RouteTable:
    """The table, from one snapshot of the store."""
    with store.read() as connection:
        return table_of(connection, store.history_id)


def table_of(connection: Connection, history_id: str) -> RouteTable:
    """The table of the snapshot that a connection sees."""
    rolling = tuple(running(connection))
    tried = [find_version(connection, one.model, number) for one in rolling for number in (one.challenger, one.control)]
    known = list(dict.fromkeys([*ever_champions(connection), *tried_versions(connection), *tried]))
    views = views_by_hash(connection, pinned_hashes(known))
    rollouts = Rollouts(rolling, newest_change(connection))
    return derive(history_id, known, views, all_trials(connection), rollouts, all_stops(connection))
