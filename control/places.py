"""Where the services of a data directory are, and the tokens that they left there."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

DEFAULT_DATA: Final = Path(".interlock")
FRAME: Final = struct.Struct("<II")
"""Length and CRC-32 before the JSON of a board, as the gateway writes it (gateway/board.py)."""


class GatewayPlace(NamedTuple):
    """The ports of the gateway that runs in a data directory."""

    address: str
    admin_address: str
    metrics_address: str
    pid: int


class ControlPlace(NamedTuple):
    """The port of the control plane that runs in a data directory."""

    address: str
    pid: int


def control_place(data: Path) -> ControlPlace | None:
    """Where the control plane of the data directory listens; None where none runs."""
    try:
        found = json.loads((data / "control" / "run" / "address").read_bytes())
    except (OSError, ValueError):
        return None
    place = ControlPlace(found["address"], found["pid"])
    return place if is_alive(place.pid) else None


def gateway_place(data: Path) -> GatewayPlace | None:
    """Where the gateway of the data directory listens; None where none runs."""
    board = read_board(data / "gateway" / "run" / "supervisor.board")
    if not board or not is_alive(board.get("pid", 0)):
        return None
    found = GatewayPlace(*(board.get(key, "") for key in GatewayPlace._fields))
    return found if found.address else None


def read_board(path: Path) -> dict[str, Any] | None:
    """What a process of the gateway says of itself; None where it says nothing that is whole."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if len(raw) < FRAME.size:
        return None
    length, crc = FRAME.unpack_from(raw)
    text = raw[FRAME.size : FRAME.size + length]
    return json.loads(text) if length and zlib.crc32(text) == crc else None


def operator_token_path(data: Path) -> Path:
    """The first operator's token, which the control plane made on its first start."""
    return data / "control" / "operator.token"


def gateway_token_path(data: Path) -> Path:
    """The token of this host's gateway: the control plane's for it, or its own where it has no control plane."""
    shared = data / "control" / "gateway.token"
    return shared if shared.exists() else data / "gateway" / "admin.token"


def read_token(path: Path) -> str | None:
    """The token in a file; None where the file is not there or not ours to read."""
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process of that id runs on this host."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
