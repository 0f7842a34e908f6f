"""The store: one SQLite file, read in snapshots, written in units that commit records and audit entry together."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Executable, create_engine, event, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from control.store.audit import Entry, Head, append, canonical_json, genesis
from control.store.tables import METADATA, audit, history
from gateway.contract.errors import Fault, Reason

BUSY_S: Final = 10.0
"""How long a write waits for the one before it: a hundred times a slow disk's commit."""
UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
    }
)
"""Primary result codes that say something of the disk or of the moment, and nothing of our statements."""


class Unit:
    """A unit of work: what is done through `connection` is committed with its audit entries, or not at all.

    Valid only within the block that `Store.unit` opens.
    """

    def __init__(self, connection: Connection, actor: str, now_ns: int) -> None:
        self.connection = connection
        self.actor = actor
        self.now_ns = now_ns
        self._recorded = False
        self._unaudited_rows = 0
        self._rows_before = _rows_written(connection)

    def record(self, action: str, subject: str, facts: Mapping[str, Any]) -> int:
        """Appends an audit entry and returns its number: the revision, where the change is one of routes."""
        head = read_head(self.connection)
        draft = Entry(0, self.now_ns, self.actor, action, subject, canonical_json(facts), "", "")
        entry = append(head, draft)
        self.connection.execute(insert(audit).values(entry._asdict()))
        self.connection.execute(update(history).values(sequence=entry.sequence, hash=entry.hash))
        self._recorded = True
        return entry.sequence

    def execute_unaudited(self, statement: Executable) -> int:
        """Writes what is no record of a decision, such as a remembered answer, and so needs no audit entry.

        Returns how many rows were written.
        """
        before = _rows_written(self.connection)
        self.connection.execute(statement)
        written = _rows_written(self.connection) - before
        self._unaudited_rows += written
        return written

    @property
    def forgot_to_record(self) -> bool:
        """Whether rows were written but no audit entry."""
        return not self._recorded and _rows_written(self.connection) > self._rows_before + self._unaudited_rows


class Store:
    """Opens the store at `path`, creating and migrating it as needed.

    A write waits at most `busy_s` for the one before it.
    """

    def __init__(self, path: Path | str, clock: Callable[[], int] = time.time_ns, busy_s: float = BUSY_S) -> None:
        self._clock = clock
        self._busy_s = busy_s
        # Waiting here is fair and costs nothing; SQLite's own waiting polls and may starve a writer.
        self._writing = threading.Lock()
        self._engine = _engine(Path(path), busy_s)
        with _faults(), self._transaction("BEGIN IMMEDIATE") as connection:
            _migrate(connection)
            _require_shape(connection)
            self.history_id = _history_id(connection, clock())

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one snapshot; it is read only by convention, and what it writes is rolled back."""
        with _faults(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def unit(self, actor: str) -> Iterator[Unit]:
        """A unit of work of `actor`. It commits only by leaving the block cleanly.

        Any exception leaves nothing behind, and so does a unit that wrote but recorded nothing: that is a programming
        error and raises AssertionError. Units are not nested.
        """
        if not self._writing.acquire(timeout=self._busy_s):
            raise _unavailable("it is busy")
        try:
            with _faults(), self._transaction("BEGIN IMMEDIATE") as connection:
                unit = Unit(connection, actor, self._clock())
                yield unit
                if unit.forgot_to_record:
                    raise AssertionError("a unit of work wrote records but no audit entry")
        finally:
            self._writing.release()

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self._engine.connect().execution_options(begin=begin) as connection, connection.begin():
            yield connection


def read_head(connection: Connection) -> Head:
    """Where the audit trail ends now."""
    row = connection.execute(select(history.c.root_history_id, history.c.sequence, history.c.hash)).one()
    return Head(row.root_history_id, row.sequence, row.hash)


def _engine(path: Path, busy_s: float) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        connect_args={"timeout": busy_s},
        pool_size=8,
        max_overflow=24,
        pool_timeout=busy_s,
        # Values must not reach a log or a message with an error.
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin as _begin says, not as the driver guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _migrate(connection: Connection) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", "control.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Fault(
            Reason.STORE_UNAVAILABLE,
            "the store was written by a newer release of Interlock; start that release, or restore a backup",
        ) from error


def _require_shape(connection: Connection) -> None:
    """Raises Fault for a store whose tables are not those of this build, as one of before a change has them."""
    found = inspect(connection)
    for table in METADATA.sorted_tables:
        columns = {column["name"] for column in found.get_columns(table.name)} if found.has_table(table.name) else set()
        if columns != set(table.columns.keys()):
            raise Fault(
                Reason.STORE_UNAVAILABLE,
                f"the store is of another build of Interlock (its table {table.name} differs), and nothing converts it "
                "before the first release: start with an empty data directory",
            )


def _history_id(connection: Connection, now_ns: int) -> str:
    known = connection.execute(select(history.c.history_id)).scalar_one_or_none()
    if known is not None:
        return str(known)
    made = uuid.uuid4().hex
    connection.execute(
        insert(history).values(
            id=1, history_id=made, root_history_id=made, created_at_ns=now_ns, sequence=0, hash=genesis(made)
        )
    )
    return made


def _rows_written(connection: Connection) -> int:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw.total_changes


@contextmanager
def _faults() -> Iterator[None]:
    """Turns what the disk or the moment is to blame for into a fault; everything else passes as it is."""
    try:
        yield
    except DBAPIError as error:
        if (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF) in UNAVAILABLE:
            raise _unavailable("its disk is full, failing or busy") from error
        raise
    except PoolTimeout as error:
        raise _unavailable("too many calls use it at once") from error


def _unavailable(why: str) -> Fault:
    return Fault(
        Reason.STORE_UNAVAILABLE,
        f"the control plane's store cannot be used now: {why}; nothing was changed, "
        "repeat the call with the same idempotency key",
    )
