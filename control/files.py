"""Files on this host as what they will be known by: hashed whole, a piece at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from control.v1 import registry_pb2

CHUNK_BYTES: Final = 1 << 20


class FileDigest(NamedTuple):
    """What a file's content is known by."""

    sha256: str
    size_bytes: int


def digest_file(path: Path) -> FileDigest:
    """SHA-256 and size of a file's whole content."""
    digest, size = hashlib.sha256(), 0
    for chunk in read_chunks(path):
        digest.update(chunk)
        size += len(chunk)
    return FileDigest(digest.hexdigest(), size)


def lineage(entries: Mapping[str, Path]) -> list[registry_pb2.LineageEntry]:
    """What a version was made from: each file hashed whole."""
    found = []
    for name, path in entries.items():
        digest = digest_file(path)
        found.append(
            registry_pb2.LineageEntry(name=name, sha256=digest.sha256, size_bytes=digest.size_bytes, uri=path.name)
        )
    return found


def read_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, as uploads send them."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
