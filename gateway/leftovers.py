"""What an earlier run of a gateway left in its data directory, and no process of this run will take care of."""

from __future__ import annotations

import shutil
from pathlib import Path

from gateway.config import Config


def remove_leftovers(config: Config) -> None:
    """Removes boards of processes that are gone, and journals that nobody writes any more as far as they exceed the
    journal's size again: until then their readers find them."""
    for board in config.run_path.glob("*.*"):
        if board.stem != "observer":  # the figures of the former observer, until the new one has caught up
            board.unlink()
    allowed_bytes = config.journal_bytes
    for directory in sorted(orphans(config), key=lambda path: path.stat().st_mtime, reverse=True):
        allowed_bytes -= sum(path.stat().st_size for path in directory.iterdir())
        if allowed_bytes < 0:
            shutil.rmtree(directory)


def orphans(config: Config) -> list[Path]:
    """The journals of workers that the present configuration does not have."""
    kept = {f"worker-{index}" for index in range(config.worker_count)}
    return [path for path in config.journal_path.glob("worker-*") if path.name not in kept]
