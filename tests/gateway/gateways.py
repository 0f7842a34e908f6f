"""Gateways to test against: the real processes, on free ports."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.board import read_board
from gateway.v1 import admin_pb2, admin_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from tests.gateway.fake_control import TOKEN
from tests.gateway.tiny import MODEL
from tests.support import until


class Gateway:
    """A gateway that runs, from outside."""

    def __init__(self, data: Path, *flags: str, control: str = "") -> None:
        self.data = data
        data.parent.mkdir(parents=True, exist_ok=True)
        token_file = data.parent / "gateway.token"
        token_file.write_text(TOKEN)
        self.command = [sys.executable, "-m", "gateway", f"--data={data}", f"--token-file={token_file}"]
        self.command += ["--address=127.0.0.1:0", "--admin-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"]
        self.command += ["--workers=1", "--journal-bytes=8388608", "--map-bytes=268435456", "--recorder=false", *flags]
        self.command += [f"--control={control}"] if control else []
        self.log = data.parent / "gateway.log"
        with self.log.open("a") as file:
            self.process = subprocess.Popen(self.command, stderr=file)

    def board(self, name: str) -> dict[str, Any]:
        """What a process says of itself."""
        return read_board(self.data / "run" / f"{name}.board") or {}

    def supervisor(self) -> dict[str, Any]:
        """What the supervisor says, once it says anything."""
        return until(lambda: self._own_board() if self.process.poll() is None else self._fail())

    def pid(self, role: str) -> int:
        """The process id of a child; 0 while it does not run."""
        return next(int(child["pid"]) for child in self.supervisor()["children"] if child["role"] == role)

    def children(self) -> list[psutil.Process]:
        """All processes that the supervisor started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def channel(self, port: str = "address") -> grpc.Channel:
        """A connection of its own to one of the gateway's ports."""
        return grpc.insecure_channel(self.supervisor()[port], [("grpc.use_local_subchannel_pool", 1)])

    def ready(self) -> bool:
        """Whether the admin port says that the gateway takes calls."""
        return self.health("admin_address") == "SERVING"

    def health(self, port: str, service: str = "gateway.v1.ScoringService") -> str:
        """What the health service of a port says."""
        with self.channel(port) as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def score(self, key: str = "S1") -> scoring_pb2.ScoreResponse:
        """Scores one subscriber."""
        with self.channel() as channel:
            request = scoring_pb2.ScoreRequest(model=MODEL, entities={"subscriber": key})
            return scoring_pb2_grpc.ScoringServiceStub(channel).Score(request, timeout=10)

    def status(self) -> admin_pb2.GetStatusResponse:
        """What the admin port says."""
        with self.channel("admin_address") as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            return stub.GetStatus(admin_pb2.GetStatusRequest(), metadata=BEARER, timeout=10)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def _own_board(self) -> dict[str, Any]:
        board = self.board("supervisor")
        return board if board.get("pid") == self.process.pid else {}  # a killed one leaves its board behind

    def _fail(self) -> dict[str, Any]:
        raise AssertionError(f"the gateway ended: {self.log.read_text()[-2000:]}")


BEARER = (("authorization", f"Bearer {TOKEN}"),)


@contextmanager
def gateway(data: Path, *flags: str, control: str = "") -> Iterator[Gateway]:
    """A gateway that is gone afterwards, with all of its processes."""
    running = Gateway(data, *flags, control=control)
    children: list[psutil.Process] = []
    try:
        running.supervisor()
        yield running
        if running.process.poll() is None:
            children = running.children()
    finally:
        if running.process.poll() is None:
            running.stop()
        for child in children:
            if child.is_running():
                child.kill()
