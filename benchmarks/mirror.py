"""Section `mirror`: what callers notice of a shadow that scores all of their rows. Without, without again, and with."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import fixture, servers
from benchmarks.paced import Paced
from benchmarks.unary import prepare
from control.v1 import data_plane_pb2 as pb
from gateway.board import read_board

ENTITIES: Final = 2_000
RESAMPLES: Final = 1_000
SIDES: Final = ("off", "again", "on")
"""Twice without a shadow, which is what chance alone does, and once with one."""
LIMIT_PERCENT: Final = 95


def mirror(full: bool) -> dict[str, Any]:
    """Open loop at half of what the gateway can do; the three sides by turns, in another order each time."""
    rounds, seconds = (60, 8.0) if full else (12, 3.0)
    runs: dict[str, list[Paced]] = {side: [] for side in SIDES}
    worked_s: dict[str, list[float]] = {side: [] for side in SIDES}
    with servers.data_directory() as data:
        messages = prepare(data, ENTITIES)
        tables = Tables(data / "gateway")
        with servers.gateway(data / "gateway", 1) as gateway:
            servers.first_score(gateway.address)
            able = [servers.load(gateway.address, servers.SCORE, messages, 32, 2.0).calls_per_s for _ in range(3)]
            per_s = min(able) / 2  # what it can always do: beyond that, queues would be all that is measured
            for number in range(rounds):
                for turn in range(len(SIDES)):
                    side = SIDES[(number + turn) % len(SIDES)]
                    tables.mirror(side == "on")
                    before_s = cpu_s(gateway)
                    runs[side].append(paced(gateway.address, messages, (per_s, seconds), number))
                    worked_s[side].append(cpu_s(gateway) - before_s)
            tables.mirror(on=False)
    return {
        "n": sum(len(run.latencies_us) for side in runs.values() for run in side),
        "calls_per_s": round(per_s),
        "failed": sum(run.failed for side in runs.values() for run in side),
        "changed_responses": changed_responses(runs),
        "scored_share": tables.scored_share(),
        "worker_cpu_ratio": round(float(np.median(np.divide(worked_s["on"], worked_s["off"]))), 3),
        **ratios(runs, "on"),
        "off_worker_cpu_ratio": round(float(np.median(np.divide(worked_s["again"], worked_s["off"]))), 3),
        **{f"off_{name}": value for name, value in ratios(runs, "again").items()},
    }


def ratios(runs: dict[str, list[Paced]], side: str) -> dict[str, float]:
    """The latencies of a side over those of `off`: the median of the rounds' ratios, and its upper bound by bootstrap.

    Each round is compared with itself, since what else the machine did fell on all of its runs.
    """
    rng = np.random.default_rng(1)
    found = {}
    for percent in (50, 99):
        ours, theirs = (
            np.array([np.percentile(run.latencies_us, percent) for run in runs[one]]) for one in (side, "off")
        )
        ratio = ours / theirs
        resampled = np.median(rng.choice(ratio, (RESAMPLES, len(ratio))), axis=1)
        found[f"p{percent}_ratio"] = round(float(np.median(ratio)), 3)
        found[f"p{percent}_ratio_upper"] = round(float(np.percentile(resampled, LIMIT_PERCENT)), 3)
        found[f"p{percent}_us"] = round(float(np.median(ours)))
    return found


def changed_responses(runs: dict[str, list[Paced]]) -> int:
    """Messages that did not get the one answer that they always get: score, decision, version and arm."""
    answers: dict[str, set[str]] = {}
    for run in (run for side in runs.values() for run in side):
        for message, found in run.answers.items():
            answers.setdefault(message, set()).update(json.dumps(answer) for answer in found)
    return sum(len(found) - 1 for found in answers.values())


def cpu_s(gateway: servers.Gateway) -> float:
    """The processor's time that the worker has taken."""
    times = gateway.worker().cpu_times()
    return float(times.user + times.system)


def paced(address: str, messages: Path, pace: tuple[float, float], seed: int) -> Paced:
    """Runs the open loop in a process of its own."""
    per_s, seconds = pace
    asked = {"address": address, "method": servers.SCORE, "messages": str(messages), "seed": seed}
    text = json.dumps(asked | {"per_s": per_s, "seconds": seconds})
    command = [sys.executable, "-m", "benchmarks.paced"]
    ran = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"the load generator failed: {ran.stderr[-2000:]}")
    return Paced(**json.loads(ran.stdout))


class Tables:
    """The route tables of a gateway without a control plane, with a shadow and without one."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._plain = pb.RouteTable.FromString((data / "routes.pb").read_bytes())
        self._revision = self._plain.revision
        self._shadow = self._place(fixture.train(seed=2))
        self._reports: list[dict[str, Any]] = []

    def mirror(self, on: bool) -> None:
        """Begins to mirror all rows, or ends it; returns when the mirror does so."""
        self._reports += list(self._board()["shadows"].values())
        self._revision += 1
        table = pb.RouteTable()
        table.CopyFrom(self._plain)
        table.revision = self._revision
        if on:
            shadow = pb.Shadow(rollout_id=self._revision, version=self._shadow, mirrored_bps=10_000, latency_slack=1.2)
            table.models[0].shadows.append(shadow)
        fresh = self._data / "routes.new"
        fresh.write_bytes(table.SerializeToString())
        fresh.rename(self._data / "routes.pb")
        wanted = [self._revision] if on else []
        servers.until(lambda: self._board().get("scored") == wanted, "the mirror")
        servers.until(lambda: self._worker_revision() == self._revision, "the worker")

    def scored_share(self) -> float:
        """Of the rows that were to be mirrored, how many were."""
        pairs, dropped = (sum(int(report[name]) for report in self._reports) for name in ("pairs", "dropped"))
        return round(pairs / max(pairs + dropped, 1), 3)

    def _board(self) -> dict[str, Any]:
        found: dict[str, Any] = servers.until(lambda: read_board(self._data / "run" / "mirror.board"), "a mirror")
        return found

    def _worker_revision(self) -> int:
        return int((read_board(self._data / "run" / "worker-0.board") or {}).get("revision", 0))

    def _place(self, model: bytes) -> pb.ServedVersion:
        contents = (model, fixture.golden(model).encode())
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        for digest, content in zip(digests, contents, strict=True):
            (self._data / "artifacts" / digest).write_bytes(content)
        return pb.ServedVersion(
            version=2,
            digest=hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
            model_sha256=digests[0],
            golden_sha256=digests[1],
            document_json=fixture.document().canonical(),
        )
