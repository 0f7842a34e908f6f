"""The demo's directory: emptied at each start, and never anybody else's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Final

MARK: Final = "THIS-IS-A-DEMO"


def claim(directory: Path) -> Path:
    """Empties the directory, or makes it; raises ValueError for one that a demo did not make, or that is in use."""
    if directory.exists():
        if not directory.is_dir() or (any(directory.iterdir()) and not (directory / MARK).exists()):
            raise ValueError(f"{directory} holds something else than a demo; name another directory with --data")
        if pid := _running(directory):
            raise ValueError(f"{directory} is in use by process {pid}; stop that first (Ctrl-C in its terminal)")
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARK).write_text("Made by the demo, which deletes this directory whenever it runs again.\n")
    return directory.resolve()


def _running(directory: Path) -> int | None:
    """The control plane's process where one runs on this directory."""
    try:
        pid = int(json.loads((directory / "control" / "run" / "address").read_text())["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError):
        return None
    return pid
