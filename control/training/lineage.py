"""What a version was made from, beside its data."""

from __future__ import annotations

import subprocess
from importlib.metadata import distributions
from pathlib import Path


def environment_lock() -> str:
    """Every installed distribution with its version, one a line, as `pip freeze` pins them."""
    found = {(item.metadata["Name"] or "").lower(): item.version for item in distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name)


def code_commit(file: Path) -> str:
    """The commit of the checkout that tracks the file, marked `-dirty` where any file differs; empty without one."""
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return ""
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or ""


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
