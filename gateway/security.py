"""Who may ask what of a gateway: scoring is open on loopback, administration needs the gateway's own token."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.contract.errors import Fault, Reason

ADMIN_TOKEN: Final = "admin.token"  # noqa: S105 - the name of a file


def require_loopback(key: str, address: str) -> None:
    """Raises ValueError where plaintext would leave this host."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise ValueError(
            f"{key} = {address}: plaintext is refused off loopback; use 127.0.0.1 and put a TLS proxy in front"
        )


def own_token(token_file: Path | None, data: Path) -> str:
    """The gateway's own token: the control plane's for it, or one made here for a gateway without a control plane.

    Raises FileNotFoundError until the control plane has made it.
    """
    if token_file is not None:
        return token_file.read_text().strip()
    path = data / ADMIN_TOKEN
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


def check_bearer(metadata: Iterable[tuple[str, str | bytes]], token: str) -> None:
    """Raises Fault unless the call bears the token; an empty one admits nobody."""
    given = next((value for key, value in metadata if key == "authorization"), "")
    text = given.decode("ascii", "replace") if isinstance(given, bytes) else given
    if not token or not hmac.compare_digest(text.encode(), f"Bearer {token}".encode()):
        raise Fault(
            Reason.UNAUTHENTICATED,
            "administration of a gateway needs its own token as `authorization: Bearer TOKEN`: "
            "the file gateway.token in the control plane's data directory, or admin.token in the gateway's",
        )
