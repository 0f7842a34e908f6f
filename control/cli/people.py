"""Two people of an installation, so that one person can try four eyes: who submits, and who approves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from control.places import read_token

if TYPE_CHECKING:
    from control.services import ControlPlane

SUBMITTER: Final = "submitter"
APPROVER: Final = "approver"
ROLES: Final = {SUBMITTER: ("data_scientist", "feature_writer"), APPROVER: ("approver", "ml_engineer")}
FIRST_TOKENS: Final = 2
"""Those that a control plane makes at its first start: the operator's and the gateways'."""


class People(NamedTuple):
    """The files of their tokens."""

    submitter: Path
    approver: Path


def find_people(data: Path, operator: ControlPlane, needed: bool = False) -> People | None:
    """The two people's token files, made where the installation has nobody else yet, or where they are `needed`.

    None where real people hold tokens here and these two are not among them.
    """
    people = People(*(data / "people" / f"{name}.token" for name in ROLES))
    tokens = operator.tokens()
    now_ns = time.time_ns()
    good = {token.token_id for token in tokens if not token.revoked and token.expires_at_ns > now_ns}
    missing = [path for path in people if _token_id(path) not in good]
    if missing and not needed and len(tokens) > FIRST_TOKENS:
        return None
    for path in missing:
        _write(path, operator.create_token(path.stem, ROLES[path.stem]).token)
    return people


def _token_id(path: Path) -> str:
    """The id in a token's text, ilk_ID_SECRET; empty where there is none."""
    _, _, rest = (read_token(path) or "").partition("_")
    return rest.partition("_")[0]


def _write(path: Path, token: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
