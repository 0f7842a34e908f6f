"""The store: a unit commits records and audit entry together or nothing, and an answer is given once."""

from __future__ import annotations

import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import create_engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from control.governance.records import whole_trail
from control.store.audit import verify
from control.store.idempotency import once
from control.store.store import Store, Unit, read_head
from control.store.tables import METADATA, artifacts, audit, tokens
from gateway.contract.errors import Fault, Reason
from tests.control.planes import no_room
from tests.support import STRESS


class BlockError(Exception):
    """What goes wrong inside a block."""


def put(unit: Unit, name: str) -> None:
    """Writes a record that has the name for its key."""
    unit.connection.execute(
        insert(artifacts).values(sha256=name, size_bytes=1, created_at_ns=unit.now_ns, created_by=unit.actor)
    )


def names(store: Store) -> set[str]:
    """The records there are."""
    with store.read() as connection:
        return set(connection.scalars(select(artifacts.c.sha256)))


def entries(store: Store) -> int:
    """How long the trail is, having verified it."""
    with store.read() as connection:
        found = verify(whole_trail(connection), read_head(connection))
    assert not found.first_bad, found.problem
    return found.entries


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store.sqlite")
    yield opened
    opened.close()


class Units(RuleBasedStateMachine):
    """Units of every kind, against a set of names and a count of entries; the store is reopened between steps."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "store.sqlite"
        self.store = Store(self.path)
        self.history_id = self.store.history_id
        self.names: set[str] = set()
        self.entries = 0
        self.answers: dict[str, tuple[str, bytes]] = {}

    def fresh(self) -> str:
        """A name that no record has yet."""
        return f"record {len(self.names)}"

    @rule(count=st.integers(1, 3))
    def commits(self, count: int) -> None:
        """Several records and one entry."""
        with self.store.unit("ana") as unit:
            for _ in range(count):
                name = self.fresh()
                put(unit, name)
                self.names.add(name)
            assert unit.record("test.put", name, {"count": count}) == self.entries + 1
        self.entries += 1

    @rule(recorded=st.booleans())
    def fails_in_the_block(self, recorded: bool) -> None:
        """Whatever was done in the block is gone."""

        def work() -> None:
            with self.store.unit("ana") as unit:
                put(unit, self.fresh())
                if recorded:
                    unit.record("test.put", "lost", {})
                raise BlockError

        with pytest.raises(BlockError):
            work()

    @rule()
    def forgets_to_record(self) -> None:
        """A record without an entry is never committed."""
        with pytest.raises(AssertionError, match="no audit entry"), self.store.unit("ana") as unit:
            put(unit, self.fresh())

    @rule(key=st.sampled_from("abc"), content=st.sampled_from("xy"))
    def answers_once(self, key: str, content: str) -> None:
        """A key is new, repeated, or used for other content."""
        name = self.fresh()

        def change(unit: Unit) -> bytes:
            put(unit, name)
            unit.record("test.once", name, {})
            return name.encode()

        known = self.answers.get(key)
        if known is None:
            assert once(self.store, "ana", key, "Test", content.encode(), change) == name.encode()
            self.answers[key] = content, name.encode()
            self.names.add(name)
            self.entries += 1
        elif known[0] == content:
            assert once(self.store, "ana", key, "Test", content.encode(), change) == known[1]
        else:
            with pytest.raises(Fault) as refused:
                once(self.store, "ana", key, "Test", content.encode(), change)
            assert refused.value.reason is Reason.IDEMPOTENCY_KEY_REUSED

    @precondition(lambda self: "a" not in self.answers)
    @rule()
    def fails_before_its_answer(self) -> None:
        """A change that fails keeps nothing, its key included."""

        def change(unit: Unit) -> bytes:
            put(unit, "never")
            unit.record("test.once", "never", {})
            raise BlockError

        with pytest.raises(BlockError):
            once(self.store, "ana", "a", "Test", b"x", change)

    @rule()
    def reopens(self) -> None:
        """As after a restart."""
        self.store.close()
        self.store = Store(self.path)

    @invariant()
    def holds_what_was_committed(self) -> None:
        """No more and no less, and the trail verifies."""
        assert names(self.store) == self.names
        assert entries(self.store) == self.entries
        assert self.store.history_id == self.history_id

    def teardown(self) -> None:
        """Leaves nothing on the disk."""
        self.store.close()
        self.directory.cleanup()


TestUnits = pytest.mark.stress(pytest.mark.timeout(1200)(Units.TestCase))
TestUnits.settings = settings(
    max_examples=200 if STRESS else 20, stateful_step_count=50 if STRESS else 20, deadline=None, derandomize=True
)


def test_the_migrated_tables_are_those_that_the_code_declares(store: Store) -> None:
    """Migration and tables.py say the same of every table, constraint and index."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'trigger'"
    declared = create_engine("sqlite://")
    METADATA.create_all(declared)

    def lines(sql: str) -> set[str]:
        return {line.strip().rstrip(",") for line in re.split(r"\n", sql)}

    with declared.connect() as connection:
        wanted = {name: lines(sql) for name, sql in connection.exec_driver_sql(query)}
    with store.read() as connection:
        found = {name: lines(sql) for name, sql in connection.exec_driver_sql(query)}
    del found["alembic_version"]
    assert found == wanted
    declared.dispose()


def test_writes_are_durable_before_they_are_acknowledged(store: Store) -> None:
    """The journal is a WAL that is synced at every commit, and foreign keys hold."""
    with store.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_audit_entries_cannot_be_changed_or_deleted_by_statements(store: Store) -> None:
    """The store itself refuses it."""
    with store.unit("ana") as unit:
        unit.record("test", "x", {})
    for statement in (update(audit).values(actor="ben"), audit.delete()):
        with pytest.raises(IntegrityError, match="never"), store.unit("ana") as unit:
            unit.connection.execute(statement)
    assert entries(store) == 1


def test_a_snapshot_does_not_see_what_is_committed_after_it_began(store: Store) -> None:
    """Two reads in one block agree."""
    with store.read() as connection:
        assert connection.scalars(select(artifacts.c.sha256)).all() == []
        with store.unit("ana") as unit:
            put(unit, "later")
            unit.record("test", "later", {})
        assert connection.scalars(select(artifacts.c.sha256)).all() == []
    assert names(store) == {"later"}


def test_units_of_many_threads_take_numbers_without_gaps(store: Store) -> None:
    """Numbers are taken under the write lock."""
    taken: list[int] = []

    def work() -> None:
        for _ in range(10):
            with store.unit("ana") as unit:
                number = unit.record("test", "x", {})
            taken.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))
    assert entries(store) == 40


def test_a_store_that_another_process_writes_is_unavailable_and_recovers(tmp_path: Path) -> None:
    """The write waits, then says that nothing was changed."""
    store = Store(tmp_path / "store.sqlite", busy_s=0.2)
    other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Fault) as refused, store.unit("ana"):
        pass
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    other.execute("ROLLBACK")
    other.close()
    with store.unit("ana") as unit:
        unit.record("test", "x", {})
    assert entries(store) == 1
    store.close()


def test_a_full_disk_refuses_writes_keeps_reads_and_recovers(store: Store) -> None:
    """Nothing is half written, and no restart is needed."""

    def write(name: str) -> None:
        with store.unit("ana") as unit:
            put(unit, name)
            unit.record("test", name, {})

    write("before")
    with no_room():
        with pytest.raises(Fault) as refused:
            write("during")
        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        assert names(store) == {"before"}
    write("after")
    assert names(store) == {"before", "after"}
    assert entries(store) == 2


def test_a_repeated_call_is_answered_while_the_store_cannot_be_written(store: Store) -> None:
    """The stored answer needs no write lock."""

    def change(unit: Unit) -> bytes:
        unit.record("test", "x", {})
        return b"first"

    assert once(store, "ana", "k", "Test", b"x", change) == b"first"
    with no_room():
        assert once(store, "ana", "k", "Test", b"x", change) == b"first"


def test_two_callers_may_use_one_key(store: Store) -> None:
    """A key belongs to its caller."""
    for actor in ("ana", "ben"):
        answer = actor.encode()
        assert once(store, actor, "k", "Test", actor.encode(), lambda _, answer=answer: answer) == answer


@pytest.mark.parametrize("key", ["", "k" * 129])
def test_a_change_without_a_usable_key_is_refused(store: Store, key: str) -> None:
    """The message says how long a key is."""
    with pytest.raises(Fault) as refused:
        once(store, "ana", key, "Test", b"", lambda _: b"")
    assert refused.value.reason is Reason.IDEMPOTENCY_KEY_MISSING


def test_a_store_of_a_newer_release_is_refused_with_a_clear_message(store: Store, tmp_path: Path) -> None:
    """Nothing is guessed about tables that this release does not know."""
    raw = sqlite3.connect(tmp_path / "store.sqlite")
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    with pytest.raises(Fault, match="newer release"):
        Store(tmp_path / "store.sqlite")


def test_a_store_of_another_build_is_refused_with_a_clear_message(store: Store, tmp_path: Path) -> None:
    """One whose tables differ although its migration has the same number, as before the first release they may."""
    raw = sqlite3.connect(tmp_path / "store.sqlite")
    raw.execute("ALTER TABLE history RENAME COLUMN root_history_id TO something")
    raw.commit()
    raw.close()
    with pytest.raises(Fault, match="its table history differs"):
        Store(tmp_path / "store.sqlite")


def test_a_secret_is_kept_nowhere_in_the_tokens_table() -> None:
    """Only hashes have a column."""
    assert not {"secret", "token", "text"} & {column.name for column in tokens.c}
