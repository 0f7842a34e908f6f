"""An installation to try planted versions on: a control plane that may be killed, and two gateways."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import fixture, planted, servers
from benchmarks.planted import Fault
from control.places import control_place, gateway_token_path, operator_token_path
from control.services import ControlPlane
from control.v1 import features_pb2, registry_pb2, rollout_pb2
from gateway.journal import TRIAL_STANDS_IN
from gateway.journal_reader import JournalReader
from gateway.request import Arm
from gateway.v1 import scoring_pb2

ENTITIES: Final = 10_000
MESSAGES: Final = 20_000
GATEWAYS: Final = 2
WORKERS: Final = 2
"""Of each gateway."""
JOURNAL_BYTES: Final = 64 << 20
LOOK_S: Final = 0.05
POLICY: Final = """
shadow: null
holdback: null
steps: [{weight_bps: 500, minimum_s: 6}]
metrics:
  errors: {advance: {ceiling: {max_bad_rate: 0.05}}}
  non_finite: {advance: {ceiling: {max_bad_rate: 0.05}}}
  latency: null
maximum_s: 3600
"""
"""The defaults in a hurry. They roll back by what it takes always: only time and the gates' ceilings are less."""


class Tried(NamedTuple):
    """What the journals say of one rollout's challenger."""

    rows: int
    """How many it was tried on."""
    failed: int
    seconds: float
    """From the first row on which it failed, or the first one where it never did, to the last one of all."""


class Journals:
    """The rows of all gateways on which challengers were tried, by rollout."""

    def __init__(self, data: Path) -> None:
        self._readers = [JournalReader(data / f"gateway-{index}" / "journal") for index in range(GATEWAYS)]
        self._tried: dict[int, list[tuple[int, int, int]]] = {}
        self.weights_bps: dict[int, set[int]] = {}
        """By rollout: the challenger's weights that rows were assigned by."""

    @property
    def lost(self) -> int:
        """Rows that were overwritten before they were read."""
        return sum(reader.lost for reader in self._readers)

    def read(self) -> None:
        """Reads what is new."""
        for reader in self._readers:
            for block in reader.poll():
                if not block.rollout_id:
                    continue
                self.weights_bps.setdefault(block.rollout_id, set()).update(block.rows["weight_bps"].tolist())
                mine = (block.rows["arm"] == Arm.CHALLENGER) & (block.rows["trial"] & TRIAL_STANDS_IN == 0)
                if count := int(mine.sum()):
                    failed = int((block.rows["reason"][mine] > 0).sum())
                    self._tried.setdefault(block.rollout_id, []).append((block.time_ns, count, failed))

    def tried(self, rollout_id: int) -> Tried:
        """Everything that was read of a rollout."""
        found = self._tried.get(rollout_id, [])
        times_ns = [time_ns for time_ns, _, _ in found] or [0]
        began_ns = min((time_ns for time_ns, _, failed in found if failed), default=min(times_ns))
        seconds = (max(times_ns) - began_ns) / 1e9
        return Tried(sum(rows for _, rows, _ in found), sum(failed for _, _, failed in found), seconds)


class Installation:
    """One control plane and its gateways, and who changes what."""

    def __init__(self, data: Path, everything: ExitStack) -> None:
        self.data = data
        self._everything = everything
        self._numbers: dict[str, int] = {}
        self.start_control("127.0.0.1:0")
        operator = ControlPlane(self.address, operator_token_path(data).read_text().strip())
        self.dana, self.erin, self.olga = (
            ControlPlane(self.address, operator.create_token(name, roles).token)
            for name, roles in (
                ("dana", ["data_scientist"]),
                ("erin", ["approver"]),
                ("olga", ["feature_writer", "ml_engineer"]),
            )
        )
        self.olga.apply_view(planted.VIEW.canonical())
        for _ in self.olga.materialize(planted.VIEW.digest(), _feature_rows, ENTITIES):
            pass

    def start_control(self, address: str) -> None:
        """Starts the control plane, for the second time at the address where it was."""
        command = [sys.executable, "-m", "control", f"--data={self.data / 'control'}", f"--address={address}"]
        self._control = self._everything.enter_context(_running([*command, "--log-level=warning"]))
        self.address = servers.until(self._listening, "the control plane to listen")

    def kill_control(self) -> None:
        """As kill -9 does."""
        self._control.send_signal(signal.SIGKILL)
        self._control.wait()

    def start_gateways(self) -> list[servers.Gateway]:
        """Starts the gateways, which answer when this returns."""
        flags = [
            f"--control={self.address}",
            f"--token-file={gateway_token_path(self.data)}",
            f"--journal-bytes={JOURNAL_BYTES}",
            f"--lake={self.data / 'lake'}",
        ]
        return [
            self._everything.enter_context(servers.gateway(self.data / f"gateway-{index}", WORKERS, *flags))
            for index in range(GATEWAYS)
        ]

    def register(self, model: str, fault: Fault) -> int:
        """Registers and approves a version that has the fault; returns its number."""
        number = self._numbers[model] = self._numbers.get(model, 0) + 1
        paths = [self.data / "model.onnx", self.data / "golden.csv"]
        paths[0].write_bytes(planted.graph(fault))
        paths[1].write_text(planted.golden(fault))
        onnx, golden = (self.dana.upload(path) for path in paths)
        text = planted.document(model, number).canonical()
        self.dana.register(
            registry_pb2.RegisterVersionRequest(document_yaml=text, model_sha256=onnx, golden_sha256=golden)
        )
        self.erin.approve(model, number)
        return number

    def start(self, model: str, version: int) -> int:
        """Starts a rollout that every worker of all gateways tries when this returns, and returns its id."""
        answer = self.olga.start_rollout(model, version, POLICY, wait_s=60)
        if answer.pending or len(answer.confirmed) != GATEWAYS:
            raise RuntimeError(f"{model}/{version} is not tried everywhere: {answer.pending}")
        return int(answer.rollout.rollout_id)

    def ended(self, rollout_id: int, seconds: float, journals: Journals) -> rollout_pb2.Rollout:
        """The rollout when it has ended, or as it is after so many seconds; meanwhile the journals are read."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.olga.rollout(rollout_id=rollout_id).rollout
            journals.read()
            if found.outcome or time.monotonic() > deadline:
                return found
            time.sleep(LOOK_S)

    def messages(self, name: str, models: list[str]) -> Path:
        """Calls for all the models by turns."""
        rng = random.Random(1)
        requests = (
            scoring_pb2.ScoreRequest(
                model=models[index % len(models)], entities={"subscriber": fixture.key(rng.randrange(ENTITIES))}
            )
            for index in range(MESSAGES)
        )
        return servers.write_messages(self.data / name, [request.SerializeToString() for request in requests])

    def _listening(self) -> str | None:
        place = control_place(self.data)
        return place.address if place and place.pid == self._control.pid else None


@contextmanager
def installation() -> Iterator[Installation]:
    """An installation that is gone afterwards."""
    with servers.data_directory() as data, ExitStack() as everything:
        yield Installation(data, everything)


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    with subprocess.Popen(command, env=others) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def _feature_rows() -> Iterator[features_pb2.FeatureRows]:
    column: Any = [float(index % planted.MINUTES) for index in range(ENTITIES)]
    yield features_pb2.FeatureRows(
        keys=[fixture.key(index) for index in range(ENTITIES)],
        event_times_ns=[fixture.EVENT_NS] * ENTITIES,
        columns=[features_pb2.FeatureColumn(name="minutes", numbers=column)],
    )
