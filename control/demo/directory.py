"""The demo's directory: emptied at each start, and never anybody else's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from control.places import control_place, gateway_place

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
    """A process that serves from this directory."""
    place = control_place(directory) or gateway_place(directory)
    return place.pid if place else None
