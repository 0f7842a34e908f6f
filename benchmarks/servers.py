"""Starts what is measured, each in processes of its own, and ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import psutil

from benchmarks import fixture
from benchmarks.load import Load
from gateway.v1 import scoring_pb2, scoring_pb2_grpc

PATIENCE_S: Final = 120.0
SCORE: Final = "/gateway.v1.ScoringService/Score"
SCORE_BATCH: Final = "/gateway.v1.ScoringService/ScoreBatch"
TEMPORARY: Final = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
"""Where data directories lie: in memory where there is such a place, so that no disk is measured by the way."""


class Gateway(NamedTuple):
    """A running gateway."""

    address: str
    data: Path
    process: psutil.Process

    def worker(self) -> psutil.Process:
        """Its first worker."""
        return next(p for p in self.process.children(recursive=True) if "worker" in p.cmdline())


@contextmanager
def data_directory() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=TEMPORARY, prefix="interlock-bench-") as name:
        yield Path(name)


@contextmanager
def floor(reply_bytes: int) -> Iterator[str]:
    """The bare handler; yields its address."""
    command = [sys.executable, "-m", "benchmarks.floor", str(reply_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@contextmanager
def gateway(data: Path, workers: int, *flags: str) -> Iterator[Gateway]:
    """A gateway on free ports, as soon as it answers."""
    free = [f"--{name}=127.0.0.1:0" for name in ("address", "admin-address", "metrics-address")]
    # Connection age is off: a load generator that does not follow GOAWAY would stop there.
    command = [sys.executable, "-m", "gateway", f"--data={data}", f"--workers={workers}", *free]
    command += ["--max-connection-age-s=0", "--log-level=warning", *flags]
    with subprocess.Popen(command) as process:
        try:
            address = until(lambda: _board(data).get("address"), "the gateway's address")
            yield Gateway(address, data, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(60)


def until(predicate: Callable[[], Any], what: str) -> Any:
    """Waits for a true value and returns it; raises TimeoutError naming `what` if it never comes."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := predicate():
            return value
        time.sleep(0.05)
    raise TimeoutError(f"waited {PATIENCE_S:.0f} s for {what}")


def first_score(address: str, model: str = "churn") -> bytes:
    """Waits until the gateway scores, and returns the reply's bytes."""

    def call() -> bytes | None:
        with grpc.insecure_channel(address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            request = scoring_pb2.ScoreRequest(model=model, entities={"subscriber": fixture.key(0)})
            try:
                return stub.Score(request, timeout=5).SerializeToString()
            except grpc.RpcError:
                return None

    return bytes(until(call, "a first score"))


def load(address: str, method: str, messages: Path, in_flight: int, seconds: float) -> Load:
    """Runs the load generator in a process of its own."""
    asked = {
        "address": address,
        "method": method,
        "messages": str(messages),
        "in_flight": in_flight,
        "seconds": seconds,
    }
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"the load generator failed: {ran.stderr[-2000:]}")
    return Load(**json.loads(ran.stdout))


def write_messages(path: Path, messages: Sequence[bytes]) -> Path:
    """Keeps messages where the load generator finds them."""
    path.write_text("\n".join(message.hex() for message in messages))
    return path


def _board(data: Path) -> dict[str, Any]:
    from gateway.board import read_board

    return read_board(data / "run" / "supervisor.board") or {}
