"""Backups of a data directory: one consistent cut while the control plane runs, verified whole, and brought back.

A backup is a directory: `store.sqlite` (records, audit trail and feature log), `artifacts/`, `keys/` (tokens in clear:
keep that folder apart), and `backup.json`, which is written last: without it the backup is not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import update

from control.store.audit import Entry, Head, verify
from control.store.store import Store
from control.store.tables import audit, history
from gateway.contract.errors import Fault, Reason

FORMAT: Final = 1
STORE: Final = "store.sqlite"
ARTIFACTS: Final = "artifacts"
KEYS: Final = "keys"
MANIFEST: Final = "backup.json"
TOKENS: Final = ("operator.token", "gateway.token")
NAMED: Final = "SELECT model_sha256 FROM versions UNION SELECT golden_sha256 FROM versions"
"""The artifacts that a version is made of. What was uploaded and not registered yet is no part of a backup."""


class Backup(NamedTuple):
    """What a backup holds."""

    format: int
    created_at_ns: int
    history_id: str
    sequence: int
    """The number of the newest audit entry."""
    head_hash: str
    feature_sequence: int
    """The newest feature batch."""
    artifacts: int
    store_sha256: str


def back_up(data: Path, out: Path) -> Backup:
    """Copies the control plane's data directory to `out`, which must be empty or not there, and verifies the copy.

    Every artifact is durable before a version names it and is kept from then on, so the store's snapshot, taken first,
    and the artifacts that it names are one cut, whatever is written meanwhile.
    """
    if not (data / STORE).is_file():
        raise _refused(f"{data} holds no control plane's store")
    _check_empty(out)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    (out / ARTIFACTS).mkdir(exist_ok=True, mode=0o700)
    (out / KEYS).mkdir(exist_ok=True, mode=0o700)
    _copy_store(data / STORE, out / STORE)
    for digest in _named_artifacts(out / STORE):
        _copy(data / ARTIFACTS / digest, out / ARTIFACTS / digest)
    for name in TOKENS:
        if (data / name).exists():
            _copy(data / name, out / KEYS / name)
    made = _examined(out)
    with (out / MANIFEST).open("x") as file:
        json.dump(made._asdict(), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    _sync((out, out / ARTIFACTS, out / KEYS))
    return made


def check(backup: Path) -> Backup:
    """Verifies a backup: its manifest, the whole audit chain and every artifact's digest; raises a fault."""
    try:
        said = Backup(**json.loads((backup / MANIFEST).read_text()))
    except FileNotFoundError:
        raise _refused(f"{backup} holds no {MANIFEST}: it is no backup, or one that was interrupted") from None
    except (ValueError, TypeError):
        raise _refused(f"{backup / MANIFEST} cannot be read: it is damaged, or of another release") from None
    if said.format != FORMAT:
        raise _refused(f"the backup has format {said.format}; this release reads {FORMAT}")
    if _examined(backup)._replace(created_at_ns=said.created_at_ns) != said:
        raise _refused(f"{backup / STORE} is not what was backed up: it differs from what {MANIFEST} says")
    return said


def restore(backup: Path, data: Path, actor: str) -> str:
    """Puts a verified backup where no data is, as a new history, and returns the new history's id.

    Gateways that follow the former history refuse the new one until they are told: they may know of decisions that
    were made after the backup.
    """
    made = check(backup)
    _check_empty(data)
    fresh = data.with_name(f"{data.name}.restoring")
    shutil.rmtree(fresh, ignore_errors=True)
    data.parent.mkdir(parents=True, exist_ok=True)
    fresh.mkdir(mode=0o700)
    (fresh / ARTIFACTS).mkdir(mode=0o700)
    _copy(backup / STORE, fresh / STORE)
    for digest in _named_artifacts(fresh / STORE):
        _copy(backup / ARTIFACTS / digest, fresh / ARTIFACTS / digest)
    for name in TOKENS:
        if (backup / KEYS / name).exists():
            _copy(backup / KEYS / name, fresh / name)
    history_id = _begin_history(fresh / STORE, made, actor)
    _sync((fresh, fresh / ARTIFACTS))
    if data.exists():
        data.rmdir()
    fresh.rename(data)
    _sync((data.parent,))
    return history_id


def _begin_history(path: Path, made: Backup, actor: str) -> str:
    store, history_id = Store(path), uuid.uuid4().hex
    try:
        with store.unit(actor) as unit:
            facts = {"history_id": history_id, "former_history_id": made.history_id, "head_hash": made.head_hash}
            unit.record("store.restore", "store", facts)
            unit.connection.execute(update(history).values(history_id=history_id, created_at_ns=unit.now_ns))
    finally:
        store.close()
    return history_id


def _examined(backup: Path) -> Backup:
    """What the files of a backup hold; a fault where an audit entry or an artifact is not as it was."""
    with (backup / STORE).open("rb") as file:
        store_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    digests = _named_artifacts(backup / STORE)
    for digest in digests:
        _check_artifact(backup / ARTIFACTS / digest)
    with closing(_read_only(backup / STORE)) as raw:
        names = ", ".join(column.name for column in audit.columns)
        entries = (Entry(*row) for row in raw.execute(f"SELECT {names} FROM audit ORDER BY sequence"))  # noqa: S608 - our own column names
        found = raw.execute("SELECT root_history_id, sequence, hash, history_id FROM history").fetchone()
        trail = verify(entries, Head(*found[:3]))
        newest = raw.execute("SELECT coalesce(max(sequence), 0) FROM feature_batches").fetchone()[0]
    if trail.first_bad:
        raise _refused(f"the audit trail of {backup} is broken at entry {trail.first_bad}: {trail.problem}")
    return Backup(FORMAT, time.time_ns(), found[3], found[1], found[2], newest, len(digests), store_sha256)


def _copy_store(source: Path, target: Path) -> None:
    """SQLite's online backup: one snapshot, while others write."""
    with closing(_read_only(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
        copy.execute(f"DELETE FROM artifacts WHERE sha256 NOT IN ({NAMED})")  # noqa: S608 - a constant
        copy.commit()
    with target.open("rb") as file:
        os.fsync(file.fileno())
    target.chmod(0o600)


def _named_artifacts(store: Path) -> list[str]:
    with closing(_read_only(store)) as raw:
        return sorted(str(row[0]) for row in raw.execute(NAMED))


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)


def _check_artifact(path: Path) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _refused(f"artifact {path.name[:12]} is missing: {path}") from None
    if found != path.name:
        raise _refused(f"artifact {path.name[:12]} is damaged: {path} has SHA-256 {found[:12]}")


def _check_empty(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise _refused(f"{directory} is not empty; name a directory that is, or is not there")


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as read, os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
            written.flush()
            os.fsync(written.fileno())
    except FileNotFoundError:
        raise _refused(f"{source} is missing") from None


def _sync(directories: Iterable[Path]) -> None:
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refused(message: str) -> Fault:
    return Fault(Reason.ARGUMENT_INVALID, message)
