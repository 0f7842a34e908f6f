"""Section `swap`: a second version is promoted and rolled back again and again, while clients call."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from benchmarks import fixture, servers
from control.demo.services import Services
from control.places import operator_token_path
from control.services import ControlPlane
from control.v1 import features_pb2, registry_pb2

ENTITIES: Final = 20_000
CHUNK: Final = 10_000
STEADY_S: Final = 6.0
SETTLED_SWAP: Final = 20
"""The swap after which memory is first looked at: allocators have their working set by then."""
POLICY: Final = """
shadow: null
holdback: null
steps: [{weight_bps: 1, minimum_s: 3600}]
"""
"""A rollout that waits for an approver to promote its version without evidence."""
NEVER_NS: Final = 1 << 62


class Swap(NamedTuple):
    """One change of who answers."""

    revision: int
    versions: tuple[int, ...]
    """Those that may answer by it."""
    confirmed_ns: int = NEVER_NS
    """When all workers had confirmed it, on the monotonic clock."""


class Memory(NamedTuple):
    """Of several processes."""

    resident_bytes: int
    """Each page once: the journal lies in five of them."""
    own_bytes: int
    """Pages that only one of them has."""


class People(NamedTuple):
    """Who changes what."""

    approver: ControlPlane
    engineer: ControlPlane


def swap(full: bool) -> dict[str, Any]:
    """Runs the promotions and holds every reply against the revision that it names."""
    swaps = 1000 if full else 100
    with servers.data_directory() as data, Services(data) as services:
        people, gateway = _start(data, services)
        first = people.engineer.promote("churn", 1, wait_s=30)
        done = [_confirmed(first, first.revision, 1)]
        servers.first_score(gateway)
        with _callers(gateway, data / "calls.json"):
            time.sleep(STEADY_S)
            began_ns = time.monotonic_ns()
            for index in range(swaps):
                done += _roll_back(people) if index % 2 else _promote(people)
                if index + 1 == SETTLED_SWAP:
                    settled = _memory(services)
            ended_ns = time.monotonic_ns()
            memory = _memory(services)
        calls = json.loads((data / "calls.json").read_text())
    steady = [call for call in calls if call[1] < began_ns]
    during = [call for call in calls if began_ns <= call[0] and call[1] <= ended_ns]
    return {
        "n": swaps,
        "calls": len(calls),
        "calls_during": len(during),
        "failed": sum(1 for call in calls if not call[2]),
        "wrong_version": wrong_versions(calls, done),
        "p99_ratio": round(_p99_ns(during) / _p99_ns(steady), 3),
        "steady_p99_ms": round(_p99_ns(steady) / 1e6, 2),
        "swap_p50_ms": round((ended_ns - began_ns) / swaps / 1e6, 1),
        "rss_growth_pct": round(100 * (memory.resident_bytes / settled.resident_bytes - 1), 1),
        "rss_mib": round(memory.resident_bytes / 2**20),
        "own_growth_pct": round(100 * (memory.own_bytes / settled.own_bytes - 1), 1),
    }


def wrong_versions(calls: Sequence[Sequence[Any]], done: Sequence[Swap]) -> int:
    """Replies whose version is not one that their revision names, or whose revision is older than the last one
    that all workers had confirmed before the call began."""
    versions_of = {swap.revision: swap.versions for swap in done}
    confirmed = sorted((swap.confirmed_ns, swap.revision) for swap in done)
    wrong = newest = 0
    for started_ns, _, version, revision in sorted(calls):
        while confirmed and confirmed[0][0] <= started_ns:
            newest = max(newest, confirmed.pop(0)[1])
        if version and (version not in versions_of.get(revision, ()) or revision < newest):
            wrong += 1
    return wrong


def _start(data: Path, services: Services) -> tuple[People, str]:
    """Starts both services and brings two versions to approval; returns who changes what and the serving address."""
    place = services.start_control()
    gateway = services.start_gateway(place.address, workers=2)
    operator = ControlPlane(place.address, operator_token_path(data).read_text().strip())
    dana, erin = (
        ControlPlane(place.address, operator.create_token(name, [role]).token)
        for name, role in (("dana", "data_scientist"), ("erin", "approver"))
    )
    writer = ControlPlane(place.address, operator.create_token("olga", ["feature_writer", "ml_engineer"]).token)
    writer.apply_view(fixture.VIEW.canonical())
    for _ in writer.materialize(fixture.VIEW.digest(), _feature_rows, ENTITIES):
        pass
    for version in (1, 2):
        _register(data, dana, version)
    erin.approve("churn", 1)
    return People(erin, writer), gateway.address


def _register(data: Path, dana: ControlPlane, seed: int) -> None:
    model = fixture.train(seed)
    paths = [data / "model.onnx", data / "golden.csv"]
    paths[0].write_bytes(model)
    paths[1].write_text(fixture.golden(model))
    onnx, golden = (dana.upload(path) for path in paths)
    dana.register(
        registry_pb2.RegisterVersionRequest(
            document_yaml=fixture.document().canonical(), model_sha256=onnx, golden_sha256=golden
        )
    )


def _feature_rows() -> Iterator[features_pb2.FeatureRows]:
    for start in range(0, ENTITIES, CHUNK):
        keys = [fixture.key(index) for index in range(start, start + CHUNK)]
        columns = [
            features_pb2.FeatureColumn(name=f"f{i}", numbers=column.tolist())
            for i, column in enumerate(fixture.values(start, start + CHUNK).T)
        ]
        yield features_pb2.FeatureRows(keys=keys, event_times_ns=[fixture.EVENT_NS] * CHUNK, columns=columns)


def _promote(people: People) -> list[Swap]:
    """Promotes version 2 by a rollout; a version that was rolled back needs a new approval first."""
    people.approver.approve("churn", 2)
    begun = people.engineer.start_rollout("churn", 2, POLICY)
    answer = people.approver.promote_rollout("churn", "the benchmark wants it", wait_s=30)
    return [Swap(begun.rollout.rollout_id, (1, 2)), _confirmed(answer, answer.revision, 2)]


def _roll_back(people: People) -> list[Swap]:
    answer = people.engineer.roll_back("churn", reason="the benchmark wants it", wait_s=30)
    return [_confirmed(answer, answer.revision, 1)]


def _confirmed(answer: Any, revision: int, version: int) -> Swap:
    if answer.pending or not answer.confirmed:
        raise RuntimeError(f"no gateway confirmed in 30 s that version {version} answers")
    return Swap(revision, (version,), time.monotonic_ns())


@contextmanager
def _callers(address: str, path: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.callers", address, str(path), str(ENTITIES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE):  # its standard input ends with the block, and so do they
        yield


def _p99_ns(calls: Sequence[Sequence[Any]]) -> float:
    latencies = sorted(ended - started for started, ended, *_ in calls)
    return float(latencies[len(latencies) * 99 // 100])


def _memory(services: Services) -> Memory:
    """Memory of the services and all that they started."""
    roots = [psutil.Process(service.process.pid) for service in services.running]
    found = [p.memory_full_info() for root in roots for p in (root, *root.children(recursive=True))]
    return Memory(sum(one.pss for one in found), sum(one.uss for one in found))
