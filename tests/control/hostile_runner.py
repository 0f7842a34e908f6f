"""Examines many models in one process that forks for each: quick enough for fuzzing, and as limited as the real one.

It reads requests from stdin and writes answers to stdout, each a length and JSON; `Examiner` is the other side.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple

from control.registry.admission.__main__ import outcome
from control.registry.admission.examine import Upload, examine, mend_and_examine
from control.registry.admission.gate import Ended, verdict
from control.registry.admission.report import Limits, Refused
from control.registry.admission.sandbox import isolate, limit
from gateway.contract.document import document_from_json


class Answer(NamedTuple):
    """Which check refused a model ("" where none did), and what it said."""

    check: str
    message: str


class Examiner:
    """The process that forks. Leave the `with` block to end it."""

    def __enter__(self) -> Examiner:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.control.hostile_runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def examine(self, upload: Upload, limits: Limits, *, mending: bool = False) -> Answer:
        """What an examination in a process of its own finds; with `mending`, as a registration has it made."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "model": base64.b64encode(upload.model).decode(),
            "golden": upload.golden.decode("latin-1"),
            "digests": [upload.model_sha256, upload.golden_sha256],
            "document": upload.document.canonical(),
            "limits": limits._asdict(),
            "mending": mending,
        }
        send(self._process.stdin, request)
        return Answer(**receive(self._process.stdout))


def send(file: IO[bytes], value: Any) -> None:
    """Writes one message."""
    raw = json.dumps(value).encode()
    file.write(struct.pack("<I", len(raw)) + raw)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """Reads one message; None at the end."""
    head = file.read(4)
    return json.loads(file.read(struct.unpack("<I", head)[0])) if head else None


def serve() -> None:
    """Answers until stdin ends."""
    while (request := receive(sys.stdin.buffer)) is not None:
        limits = Limits(**request["limits"])
        model_sha256, golden_sha256 = request["digests"]
        upload = Upload(
            base64.b64decode(request["model"]),
            request["golden"].encode("latin-1"),
            model_sha256,
            golden_sha256,
            document_from_json(request["document"]),
            {},
        )
        try:
            verdict(in_a_fork(upload, limits, mending=request["mending"]), limits)
            answer = Answer("", "")
        except Refused as refused:
            answer = Answer(refused.check, refused.message)
        send(sys.stdout.buffer, answer._asdict())


def in_a_fork(upload: Upload, limits: Limits, *, mending: bool) -> Ended:
    """Examines the upload in a child that is limited as the real one is."""
    examination = (lambda: mend_and_examine(upload, limits).report) if mending else lambda: examine(upload, limits)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            limit(limits.memory_bytes, limits.cpu_s)
            isolate()
            os.write(writing, outcome(examination))
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(writing)
    output = _output(pid, reading, limits.wall_s)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(code if output is not None else None, output or b"", b"")


def _output(pid: int, reading: int, wall_s: float) -> bytes | None:
    """What the child wrote; None where it was out of time, and was killed."""
    with os.fdopen(reading, "rb") as file:
        if select.select([file], [], [], wall_s)[0]:
            return file.read()
        os.kill(pid, signal.SIGKILL)
        return None


if __name__ == "__main__":
    serve()
