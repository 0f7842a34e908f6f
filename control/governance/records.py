"""Approvals, tokens and the audit trail as the store keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from control.rollout.version import VersionRecord
from control.security import Token, roles_from_json, roles_json
from control.store.audit import Entry
from control.store.store import Unit
from control.store.tables import approvals, audit, tokens
from gateway.contract.errors import Fault, Reason

PAGE: Final = 1000
"""Audit entries held in memory at once while the trail is verified."""


class Decision(NamedTuple):
    """What somebody decided on a version."""

    model: str
    version: int
    digest: str
    submitted_by: str
    decision: str
    decided_by: str
    decided_at_ns: int
    comment: str


def decisions_on(connection: Connection, model: str = "") -> list[Decision]:
    """The decisions given, of one model or of all, newest first."""
    query = select(*(approvals.c[name] for name in Decision._fields))
    if model:
        query = query.where(approvals.c.model == model)
    return [Decision(*row) for row in connection.execute(query.order_by(approvals.c.sequence.desc()))]


def add_decision(unit: Unit, record: VersionRecord, decision: str, comment: str, sequence: int) -> Decision:
    """Stores a decision of the unit's actor. The store itself refuses one by the submitter, or on another digest."""
    made = Decision(
        record.model, record.version, record.digest, record.submitted_by, decision, unit.actor, unit.now_ns, comment
    )
    try:
        unit.connection.execute(insert(approvals).values(**made._asdict(), sequence=sequence))
    except IntegrityError as error:
        if "two_people" in str(error.orig):
            raise own_version(record, unit.actor) from error
        raise
    return made


def own_version(record: VersionRecord, actor: str) -> Fault:
    """The fault of deciding on what one submitted."""
    return Fault(Reason.APPROVAL_OWN, f"{actor} submitted {record.subject} and cannot decide on it; somebody else must")


def add_token(unit: Unit, token: Token) -> None:
    """Stores a new token."""
    unit.connection.execute(
        insert(tokens).values(
            token_id=token.token_id,
            actor=token.actor,
            roles_json=roles_json(token.roles),
            secret_sha256=token.secret_sha256,
            created_at_ns=token.created_at_ns,
            created_by=unit.actor,
            expires_at_ns=token.expires_at_ns,
        )
    )


def find_token(connection: Connection, token_id: str) -> Token | None:
    """The token of that id."""
    return next(_tokens(connection, token_id), None)


def all_tokens(connection: Connection) -> list[Token]:
    """Every token, newest first."""
    return list(_tokens(connection))


def revoke_token(unit: Unit, token_id: str) -> None:
    """Ends a token's validity now."""
    unit.connection.execute(update(tokens).where(tokens.c.token_id == token_id).values(revoked_at_ns=unit.now_ns))


def entries_before(connection: Connection, subject: str, before: int, limit: int) -> list[Entry]:
    """Entries of the trail, newest first: about one subject where named, before a number where it is not 0.

    A model's name finds the entries about its versions too.
    """
    query = select(audit).order_by(audit.c.sequence.desc()).limit(limit)
    if subject:
        # "/" sorts just before "0", so this is every subject that begins with the name and a slash.
        query = query.where(
            (audit.c.subject == subject) | ((audit.c.subject >= f"{subject}/") & (audit.c.subject < f"{subject}0"))
        )
    if before:
        query = query.where(audit.c.sequence < before)
    return [Entry(*row) for row in connection.execute(query)]


def whole_trail(connection: Connection) -> Iterator[Entry]:
    """Every entry, oldest first, a page at a time."""
    rows = connection.execution_options(yield_per=PAGE).execute(select(audit).order_by(audit.c.sequence))
    for row in rows:
        yield Entry(*row)


def _tokens(connection: Connection, token_id: str = "") -> Iterator[Token]:
    query = select(tokens).order_by(tokens.c.created_at_ns.desc(), tokens.c.token_id)
    if token_id:
        query = query.where(tokens.c.token_id == token_id)
    for row in connection.execute(query):
        yield Token(
            row.token_id,
            row.actor,
            roles_from_json(row.roles_json),
            row.secret_sha256,
            row.created_at_ns,
            row.expires_at_ns,
            row.revoked_at_ns is not None,
        )
