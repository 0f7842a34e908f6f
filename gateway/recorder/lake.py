"""The lake: files that appear whole, under names that mean one content for ever.

A local directory today; what an object store needs is the same `put`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from gateway.artifacts import make_directory, sync, sync_directory


class Lake:
    """A directory of files by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, content: BinaryIO, name: str) -> None:
        """Puts content under a name, durably, in the place of what was there. Readers see all of it or none."""
        target = self.directory / name
        make_directory(target.parent)
        fresh = target.with_name(f".{target.name}.new")
        with fresh.open("wb") as file:
            shutil.copyfileobj(content, file)
            sync(file)
        fresh.rename(target)
        sync_directory(target.parent)
