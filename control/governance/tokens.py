"""Makes tokens: those that operators ask for, and the two that a control plane starts with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from control.governance.decisions import DAY_S
from control.governance.records import add_token, find_token
from control.security import Role, Token, authenticate, new_secret, secret_hash
from control.store.store import Store, Unit
from gateway.contract.errors import Fault

FIRST_VALID_S: Final = 365 * DAY_S


def create(unit: Unit, actor: str, roles: frozenset[Role], valid_s: int) -> tuple[Token, str]:
    """Stores a new token, and returns it with the secret text that only its holder will have."""
    token_id, text = new_secret()
    expires_at_ns = unit.now_ns + valid_s * 1_000_000_000
    token = Token(token_id, actor, roles, secret_hash(text), unit.now_ns, expires_at_ns, revoked=False)
    facts = {"actor": actor, "roles": sorted(roles), "expires_at_ns": expires_at_ns}
    unit.record("token.create", f"token/{token_id}", facts)
    add_token(unit, token)
    return token, text


def ensure_first_tokens(store: Store, now_ns: int, operator: Path, gateway: Path) -> None:
    """Sees to it that both files hold a token that is good for half a year at least, each readable by its owner only.

    A file that was removed, or whose token was revoked, gets a new token at the next start.
    """
    for path, role in ((operator, Role.OPERATOR), (gateway, Role.GATEWAY)):
        if not _is_good(store, path, now_ns + FIRST_VALID_S * 1_000_000_000 // 2):
            with store.unit("control") as unit:
                _, text = create(unit, role.value, frozenset({role}), FIRST_VALID_S)
            _write_secret(path, text)


def _is_good(store: Store, path: Path, until_ns: int) -> bool:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return False
    with store.read() as connection:
        try:
            authenticate(text, lambda token_id: find_token(connection, token_id), until_ns)
        except Fault:
            return False
    return True


def _write_secret(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
