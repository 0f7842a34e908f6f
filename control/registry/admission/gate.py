"""The server's side of admission: starts the disposable process, bounds it, and reads what it says."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, Any, BinaryIO, Final, NamedTuple

from control.registry.admission.report import Check, Limits, Refused, Report, report_from_json
from control.registry.admission.sandbox import OUTPUT_BYTES
from control.telemetry import log
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import FeatureView

REQUEST_BYTES: Final = 1 << 20
AT_ONCE: Final = 2
"""Admissions that run at once: their memory adds up to no more than this many times the limit."""
WAITING: Final = 4
"""Admissions that wait for their turn; more would take the threads that answer other calls."""
MODULE: Final = "control.registry.admission"
KILLED_FOR_TIME: Final = frozenset({-signal.SIGXCPU, -signal.SIGKILL})


class Candidate(NamedTuple):
    """What wants to be registered: opened files, and what they are said to be."""

    model: BinaryIO
    golden: BinaryIO
    document: ModelDocument
    views: Mapping[str, FeatureView]
    """The pinned views, by name."""
    model_sha256: str
    golden_sha256: str
    rewritten: BinaryIO | None = None
    """Takes the model as it was rewritten to be servable, and stays empty where that was not needed.

    Without it nothing is rewritten, and such a model is refused.
    """

    def descriptors(self) -> tuple[int, ...]:
        """The files, for the process that examines them."""
        files = (self.model, self.golden, self.rewritten)
        return tuple(file.fileno() for file in files if file is not None)


class Admission:
    """Admits models, a few at a time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._running = threading.BoundedSemaphore(AT_ONCE)
        self._inside = threading.BoundedSemaphore(AT_ONCE + WAITING)

    def admit(self, candidate: Candidate) -> Report:
        """Returns what was measured of the model, or raises a fault that names the check that it did not pass."""
        if not self._inside.acquire(blocking=False):
            raise Fault(
                Reason.OVERLOADED,
                "several models are being examined already; repeat the call in a while, with the same idempotency key",
            )
        try:
            request = _request(candidate, self._limits)
            with self._running:
                ended = run_disposable(request, candidate.descriptors(), self._limits)
            return verdict(ended, self._limits)
        except Refused as refused:
            raise Fault(
                Reason.ADMISSION_REFUSED,
                f"refused by the check `{refused.check}`: {refused.message}",
                check=refused.check.value,
            ) from None
        finally:
            self._inside.release()


class Ended(NamedTuple):
    """How the process ended. `code` is None where it was out of time, and minus the signal where one killed it."""

    code: int | None
    output: bytes
    said: bytes


def _request(candidate: Candidate, limits: Limits) -> bytes:
    request = {
        "model": candidate.model.fileno(),
        "golden": candidate.golden.fileno(),
        "rewritten": None if candidate.rewritten is None else candidate.rewritten.fileno(),
        "model_sha256": candidate.model_sha256,
        "golden_sha256": candidate.golden_sha256,
        "document": candidate.document.canonical(),
        "views": {name: view.canonical() for name, view in candidate.views.items()},
        "limits": limits._asdict(),
    }
    raw = json.dumps(request).encode()
    if len(raw) > REQUEST_BYTES:
        raise Refused(Check.SIZE, "the document and its views together are larger than 1 MiB; describe less")
    return raw


def run_disposable(request: bytes, descriptors: tuple[int, ...], limits: Limits, module: str = MODULE) -> Ended:
    """Runs a disposable process, which inherits the descriptors, in a session of its own.

    Its input and output are files, so neither can block.
    The files have no names, and its directory is the root: nothing is left of it, whoever is killed.
    """
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as answer,
        tempfile.TemporaryFile() as said,
    ):
        given.write(request)
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=given,
            stdout=answer,
            stderr=said,
            cwd="/",
            env=_environment(),
            pass_fds=descriptors,
            start_new_session=True,
        )
        code = _wait(process, limits.wall_s)
        return Ended(code, _read(answer), _read(said))


def _environment() -> dict[str, str]:
    """No secrets, and one thread wherever a library would start more."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return kept | {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _wait(process: subprocess.Popen[bytes], wall_s: float) -> int | None:
    """Waits, and kills the whole group however it ended, before its leader is reaped and its number could be reused."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        in_time = bool(poll.poll(wall_s * 1000))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        os.close(descriptor)
        code = process.wait()
    return code if in_time else None


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(OUTPUT_BYTES)


def verdict(ended: Ended, limits: Limits) -> Report:
    """The report, or Refused."""
    answer = parsed(ended, limits)
    try:
        return report_from_json(json.dumps(answer["report"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable() from error


def parsed(ended: Ended, limits: Limits) -> dict[str, Any]:
    """What the process answered, or Refused: one that died or said nothing had a model that will not be served."""
    if ended.code is None:
        raise Refused(Check.TIME, f"it was not through after {limits.wall_s:g} s; a smaller model will be")
    if ended.code in KILLED_FOR_TIME:
        raise Refused(Check.TIME, f"it took more than {limits.cpu_s} s of processor time; a smaller model will not")
    if ended.code != 0:
        log(logging.WARNING, "admission_crashed", code=ended.code, said=ended.said[-2000:].decode(errors="replace"))
        how = f"signal {-ended.code}" if ended.code < 0 else f"code {ended.code}"
        raise Refused(
            Check.CRASH, f"the process that examined it died with {how}; export it again with current converters"
        )
    return _read_answer(ended.output)


def _read_answer(output: bytes) -> dict[str, Any]:
    """Reads the answer. What wrote it had hostile bytes in memory, so nothing of it is taken on trust."""
    try:
        answer: dict[str, Any] = json.loads(output)
        if "refused" not in answer:
            return answer
        check, message = Check(answer["refused"]), str(answer["message"])[:2000]
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable() from error
    raise Refused(check, message)


def _unreadable() -> Refused:
    return Refused(Check.CRASH, "the process that examined it gave no answer that can be read")
