"""One process of a gateway, started as the supervisor starts it but without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.board import read_board
from gateway.children import child_environment
from gateway.config import Config


def prepared(data: Path, **settings: Any) -> Config:
    """Settings, and the directories and the id that a supervisor makes."""
    config = Config(data=data, journal_bytes=4 << 20, map_bytes=256 << 20, workers=1, **settings)
    for path in (config.artifacts_path, config.features_path, config.journal_path, config.run_path):
        path.mkdir(parents=True, exist_ok=True)
    (data / "gateway.id").write_text("gateway-under-test")
    return config


@contextmanager
def role(name: str, config: Config) -> Iterator[subprocess.Popen[bytes]]:
    """The process; at the end it is told to leave by the end of its standard input, and must."""
    command = [sys.executable, "-m", "gateway", name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=child_environment())
    assert process.stdin is not None
    try:
        process.stdin.write(config.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        yield process
        process.stdin.close()
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        if not process.stdin.closed:
            process.stdin.close()


def board(config: Config, name: str) -> dict[str, Any]:
    """What the process says of itself."""
    return read_board(config.run_path / f"{name}.board") or {}
