"""Files that must be whole and durable before anybody relies on them: artifacts by digest, and the route table."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO, Final

from gateway.contract.errors import Fault, Reason

SHA256: Final = re.compile(r"[0-9a-f]{64}")
PART: Final = ".part"
PIECE_BYTES: Final = 1 << 20


def replace_durably(path: Path, content: bytes) -> None:
    """Puts the content in the file's place: after a crash the file has the old content or the new."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(content)
        sync(file)
    fresh.rename(path)
    sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Makes a directory, and its parents, so that they are there after a crash as well."""
    made = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in made:
        sync_directory(directory.parent)


def sync(file: BinaryIO) -> None:
    """Returns when what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Returns when what was renamed in the directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Artifacts:
    """The artifacts of this host. A file that bears its digest as its name was checked against it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here."""
        return [digest for digest in digests if not (self.directory / digest).exists()]

    def receive(self, digest: str) -> Incoming:
        """Begins to take in an artifact."""
        if not SHA256.fullmatch(digest):  # it becomes the name of a file
            raise Fault(Reason.DIGEST_MISMATCH, f"{digest[:80]!r} is not a SHA-256 in hexadecimal")
        return Incoming(self.directory / digest)

    def verify(self) -> list[str]:
        """Removes files that were never finished or no longer have their digest, and returns these digests."""
        damaged = [path for path in self.directory.iterdir() if path.suffix == PART or _digest(path) != path.name]
        for path in damaged:
            path.unlink()
        return [path.name for path in damaged if path.suffix != PART]

    def keep_only(self, digests: Collection[str]) -> None:
        """Removes what none of the digests names."""
        for path in self.directory.iterdir():
            if path.name not in digests:
                path.unlink()


class Incoming:
    """An artifact while it comes in. It gets its name only when it is whole, checked and on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_suffix(PART)
        self._file = self._part.open("wb")
        self._hash = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Takes the next bytes."""
        self._file.write(chunk)
        self._hash.update(chunk)

    def finish(self) -> None:
        """Keeps the artifact; raises Fault where the bytes are not those that the digest names."""
        if self._hash.hexdigest() != self._path.name:
            raise Fault(
                Reason.DIGEST_MISMATCH,
                f"artifact {self._path.name}: the bytes received have the digest {self._hash.hexdigest()}",
            )
        sync(self._file)
        self._part.rename(self._path)
        sync_directory(self._path.parent)

    def close(self) -> None:
        """Drops whatever was not finished."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
