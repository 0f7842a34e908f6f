"""The pipeline behind other fronts than grpc.aio, against a bare grpc.aio handler: `python -m benchmarks.trial`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc
import psutil

from benchmarks import servers
from benchmarks.load import Load
from benchmarks.trial_fronts import FRONTS
from benchmarks.unary import prepare
from gateway.v1 import scoring_pb2, scoring_pb2_grpc

ENTITIES: Final = 100_000
LEVELS: Final = (1, 8, 32)
PAIRS: Final = 7
SECONDS: Final = 1.0


@contextmanager
def front(data: Path, name: str) -> Iterator[tuple[str, psutil.Process]]:
    """One of the fronts, in a process of its own; yields its address and the process."""
    command = [sys.executable, "-m", "benchmarks.trial_fronts", name, str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}", psutil.Process(process.pid)
        finally:
            process.kill()


def refusal(address: str) -> tuple[str, str, bytes]:
    """How a call is refused that names no model, as grpcio's client has it: the same behind every front."""
    with grpc.insecure_channel(address) as channel:
        try:
            scoring_pb2_grpc.ScoringServiceStub(channel).Score(scoring_pb2.ScoreRequest(model="nobody"), timeout=5)
        except grpc.RpcError as error:
            details = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
            return error.code().name, error.details(), details
    raise AssertionError("a score of nobody's model")


def trial() -> dict[str, Any]:
    """Interleaved: the floor, the gateway on grpc.aio, and each front, at each number of calls in flight."""
    with servers.data_directory() as data, ExitStack() as stack:
        messages = prepare(data, ENTITIES)
        gateway = stack.enter_context(servers.gateway(data / "gateway", 1))
        size = len(servers.first_score(gateway.address))
        sides = {"grpcio": (gateway.address, gateway.worker())}
        sides |= {name: stack.enter_context(front(data / "gateway", name)) for name in FRONTS}
        floor = stack.enter_context(servers.floor(size))
        for address, _ in sides.values():
            servers.first_score(address)
        told = {name: refusal(address) for name, (address, _) in sides.items()}
        assert len(set(told.values())) == 1, told
        figures: dict[str, Any] = {name: {} for name in sides}
        for level in LEVELS:
            rounds = [_round(floor, sides, messages, level) for _ in range(PAIRS)]
            for name in sides:
                figures[name][str(level)] = _figures([(seen["floor"], seen[name]) for seen in rounds])
    return {"n": PAIRS, "entities": ENTITIES, **figures}


def _round(
    floor: str, sides: dict[str, tuple[str, psutil.Process]], messages: Path, level: int
) -> dict[str, tuple[Load, float]]:
    seen = {"floor": (servers.load(floor, servers.SCORE, messages, level, SECONDS), 0.0)}
    for name, (address, process) in sides.items():
        before = process.cpu_times()
        load = servers.load(address, servers.SCORE, messages, level, SECONDS)
        after = process.cpu_times()
        seen[name] = load, after.user + after.system - before.user - before.system
    return seen


def _figures(pairs: list[tuple[tuple[Load, float], tuple[Load, float]]]) -> dict[str, Any]:
    return {
        "p50_ratio": round(median(ours.p50_us / floor.p50_us for (floor, _), (ours, _) in pairs), 2),
        "rps_ratio": round(median(ours.calls_per_s / floor.calls_per_s for (floor, _), (ours, _) in pairs), 2),
        "p50_us": round(median(ours.p50_us for _, (ours, _) in pairs)),
        "p99_us": round(median(ours.p99_us for _, (ours, _) in pairs)),
        "per_s": round(median(ours.calls_per_s for _, (ours, _) in pairs)),
        "cpu_us_a_call": round(median(cpu / (ours.calls * 1.2) * 1e6 for _, (ours, cpu) in pairs)),
        "failed": sum(ours.failed for _, (ours, _) in pairs),
    }


if __name__ == "__main__":
    print(json.dumps(trial(), indent=1))
