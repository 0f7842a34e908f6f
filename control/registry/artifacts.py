"""Artifacts: bytes in a directory, each file named by the SHA-256 of its content and never changed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from gateway.contract.errors import Fault, Reason

CHUNK_BYTES: Final = 1 << 20
SHA256: Final = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """Keeps artifacts in `directory`, none larger than `max_bytes`.

    Opened once per directory: opening removes what killed uploads left, so no other may be receiving then.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._incoming = directory / "incoming"
        self._max_bytes = max_bytes
        self._incoming.mkdir(parents=True, exist_ok=True)
        for leftover in self._incoming.iterdir():
            leftover.unlink()

    @contextmanager
    def receive(self, sha256: str, size_bytes: int, chunks: Iterable[bytes]) -> Iterator[Callable[[], None]]:
        """Receives the bytes, and yields what publishes them: only then are they there, durably.

        Leaving the block without publishing, or by any fault, leaves nothing behind. Two that receive the same bytes
        at once both succeed, and the file is there once.
        """
        self._check_declared(sha256, size_bytes)
        part = self._incoming / f"{sha256[:16]}-{secrets.token_hex(8)}"
        try:
            with _disk_faults(), part.open("xb") as file:
                _write(file, sha256, size_bytes, chunks)
                file.flush()
                os.fsync(file.fileno())
            yield lambda: self._publish(part, sha256)
        finally:
            part.unlink(missing_ok=True)

    def discard(self, sha256: str) -> None:
        """Removes an artifact; one that is not there is no error."""
        with _disk_faults():
            (self._directory / sha256).unlink(missing_ok=True)
            _sync_directory(self._directory)

    def open(self, sha256: str) -> BinaryIO:
        """Opens an artifact for reading; raises a fault where there is none."""
        if SHA256.fullmatch(sha256):
            try:
                return (self._directory / sha256).open("rb")
            except FileNotFoundError:
                pass
        raise Fault(
            Reason.ARTIFACT_UNKNOWN, f"no artifact {sha256[:64]!r} is stored; upload it first", sha256=sha256[:64]
        )

    def size_bytes(self, sha256: str) -> int:
        """How large an artifact is; raises a fault where there is none."""
        with self.open(sha256) as file:
            return os.fstat(file.fileno()).st_size

    def _publish(self, part: Path, sha256: str) -> None:
        with _disk_faults():
            part.rename(self._directory / sha256)
            _sync_directory(self._directory)

    def _check_declared(self, sha256: str, size_bytes: int) -> None:
        if not SHA256.fullmatch(sha256):
            raise Fault(
                Reason.ARGUMENT_INVALID,
                f"header.sha256: {sha256[:80]!r} is not a SHA-256; 64 lower-case hexadecimal digits are taken",
                field="header.sha256",
            )
        if size_bytes < 0:
            raise Fault(Reason.ARGUMENT_INVALID, "header.size_bytes: is negative", field="header.size_bytes")
        if size_bytes > self._max_bytes:
            raise Fault(
                Reason.ARTIFACT_TOO_LARGE,
                f"the artifact has {size_bytes} bytes; {self._max_bytes} are taken (control.max_artifact_bytes)",
                max_bytes=str(self._max_bytes),
            )


def _write(file: BinaryIO, sha256: str, size_bytes: int, chunks: Iterable[bytes]) -> None:
    digest, received = hashlib.sha256(), 0
    for chunk in chunks:
        received += len(chunk)
        if received > size_bytes:
            raise _mismatch(f"more bytes came than the {size_bytes} that the header declares")
        digest.update(chunk)
        file.write(chunk)
    if received < size_bytes:
        raise _mismatch(f"{received} bytes came of the {size_bytes} that the header declares")
    if digest.hexdigest() != sha256:
        raise _mismatch(f"the bytes have SHA-256 {digest.hexdigest()}, the header declares {sha256}")


@contextmanager
def _disk_faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Fault(
            Reason.STORE_UNAVAILABLE,
            f"the artifact directory cannot be written now ({os.strerror(error.errno or 0)}); nothing was changed",
        ) from error


def _mismatch(what: str) -> Fault:
    return Fault(Reason.DIGEST_MISMATCH, f"{what}; nothing was kept, send them again")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
