"""Changes that can be repeated: the same key and content get the first answer again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, insert, select

from control.store.store import Store, Unit
from control.store.tables import idempotency
from gateway.contract.errors import Fault, Reason

LONGEST_KEY: Final = 128


def once(store: Store, caller: str, key: str, method: str, request: bytes, change: Callable[[Unit], bytes]) -> bytes:
    """The answer to a change: the stored one where the caller sent this key with this content before.

    Otherwise `change` runs in one unit and its answer is stored in the same transaction. `request` must be the same
    bytes for the same content.
    """
    # A look without the write lock first: a repeated call is answered while others write, or the disk is full.
    known = replay(store, caller, key, method, request)
    if known is not None:
        return known
    digest = hashlib.sha256(request).hexdigest()
    with store.unit(caller) as unit:
        known = _answer(unit.connection, caller, key, method, digest)
        if known is not None:
            return known
        answer = change(unit)
        unit.execute_unaudited(
            insert(idempotency).values(
                caller=caller,
                key=key,
                method=method,
                request_sha256=digest,
                response=answer,
                created_at_ns=unit.now_ns,
            )
        )
    return answer


def replay(store: Store, caller: str, key: str, method: str, request: bytes) -> bytes | None:
    """The stored answer where the caller sent this key with this content before, for what must not be done twice."""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise Fault(
            Reason.IDEMPOTENCY_KEY_MISSING,
            f"idempotency_key: every change takes one of 1 to {LONGEST_KEY} characters, this one has {len(key)}",
        )
    with store.read() as connection:
        return _answer(connection, caller, key, method, hashlib.sha256(request).hexdigest())


def _answer(connection: Connection, caller: str, key: str, method: str, digest: str) -> bytes | None:
    columns = idempotency.c
    row = connection.execute(
        select(columns.method, columns.request_sha256, columns.response).where(
            columns.caller == caller, columns.key == key
        )
    ).one_or_none()
    if row is None:
        return None
    if (row.method, row.request_sha256) != (method, digest):
        raise Fault(
            Reason.IDEMPOTENCY_KEY_REUSED,
            f"idempotency_key: {key!r} was used before, for a call of {row.method} with other content; "
            "take a new key for a new change",
        )
    return bytes(row.response)
