"""An operator at three in the morning: real services, the command, and what breaks at night."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.planes import Client, Process, make_champion
from tests.e2e.test_up import Interlock, environment, serve_a_model
from tests.support import until

PORTS = [f"--{key}=127.0.0.1:0" for key in ("address", "admin-address", "metrics-address")]


class Night(Interlock):
    """An installation whose services run apart from each other, as on hosts of their own."""

    @property
    def data(self) -> Path:
        """Where it lies, which is where the command looks."""
        return self.cwd / ".interlock"

    def start_control(self, address: str = "127.0.0.1:0") -> Process:
        """Starts the control plane."""
        return Process(self.data / "control", "--address", address)

    def start_gateway(self, control: str) -> subprocess.Popen[bytes]:
        """Starts a gateway of it, and waits until it serves."""
        flags = [f"--data={self.data / 'gateway'}", f"--control={control}", "--workers=1", *PORTS]
        flags += [f"--token-file={self.data / 'control' / 'gateway.token'}", "--journal-bytes=8388608"]
        with (self.cwd / "gateway.log").open("ab") as log:
            started = subprocess.Popen([sys.executable, "-m", "gateway", *flags], stderr=log, env=environment())
        board = self.data / "gateway" / "run" / "supervisor.board"
        until(lambda: board.exists() and str(started.pid).encode() in board.read_bytes())
        return started

    def score(self) -> tuple[int, list[str]]:
        """Which version answers for S200, and what it says of itself; version -1 where nobody answers."""
        run = self("score", "churn", "--entity", "subscriber=S200", "--json")
        return (run.json()["version"], run.json()["flags"]) if run.code == 0 else (-1, [json.loads(run.err)["reason"]])

    def second_champion(self, control: Process) -> None:
        """Another version becomes champion instead of the first."""
        rows = (self.cwd / "golden.csv").read_text().splitlines(keepends=True)
        (self.cwd / "golden.csv").write_text("".join(rows[:-1]))
        given = ("model", "register", "model.yaml", "--onnx", "churn.onnx", "--golden", "golden.csv")
        self.must(*given, "--token-file", "ann.token")
        self.must("approval", "approve", "churn/2", "--token-file", "bob.token")
        bob = Client(control.address, (self.cwd / "bob.token").read_text().strip())
        make_champion(bob, bob, "churn", 2, wait_ms=20_000)

    def sentences(self) -> list[str]:
        """The model's story, oldest first."""
        return self.must("model", "history", "churn").out.splitlines()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with two champions, the second of which answers, as it lies on the disk when nothing runs."""
    interlock = Night([str(Path(sys.executable).with_name("interlock"))], tmp_path_factory.mktemp("prepared"))
    control = interlock.start_control()
    try:
        gateway = interlock.start_gateway(control.address)
        try:
            serve_a_model(interlock)
            interlock.second_champion(control)
        finally:
            gateway.terminate()
            gateway.wait(30)
    finally:
        control.end()
    return interlock.cwd


@pytest.fixture
def night(prepared: Path, tmp_path: Path) -> Iterator[tuple[Night, dict[str, Any]]]:
    """A copy of that installation, whose services run; whatever runs at the end ends."""
    home = tmp_path / "home"
    shutil.copytree(prepared, home)
    interlock = Night([str(Path(sys.executable).with_name("interlock"))], home)
    running: dict[str, Any] = {"control": interlock.start_control()}
    try:
        running["gateway"] = interlock.start_gateway(running["control"].address)
        until(lambda: interlock.score() == (2, []))
        yield interlock, running
    finally:
        try:
            if (gateway := running.get("gateway")) is not None:
                gateway.terminate()
                gateway.wait(30)
        finally:
            if running["control"].process.returncode is None:
                running["control"].end()


def test_a_gateway_steps_back_while_the_control_plane_is_dead(night: tuple[Night, dict[str, Any]]) -> None:
    """One command on the host; it survives kill -9 and a restart, and is in the audit trail with its original time."""
    interlock, running = night
    address = running["control"].address
    running["control"].end(signal.SIGKILL)
    shown = interlock("status")
    assert (shown.code, "interlock gateway rollback" in shown.err) == (1, True), shown.out + shown.err
    done = interlock.must("gateway", "rollback", "churn", "--reason", "it calls everybody")
    assert "churn/1 answers on this gateway; churn/2 does not any more" in done.out
    assert "In force in 1 of 1 workers." in done.out
    assert interlock.score() == (1, ["stepped_back"])
    assert "churn/2 is withdrawn here" in interlock("status").out
    assert "cannot step back" in interlock("gateway", "rollback", "churn", "--reason", "again").err

    running["gateway"].kill()
    running["gateway"].wait()
    nowhere = interlock("gateway", "rollback", "churn", "--reason", "again")
    assert (nowhere.code, "cannot step back" in nowhere.err) == (1, True), nowhere.out + nowhere.err
    running["gateway"] = interlock.start_gateway(address)
    until(lambda: interlock.score() == (1, ["stepped_back"]))

    running["control"] = interlock.start_control(address)
    until(lambda: interlock.score() == (1, []), 60)
    shown = until(lambda: (run := interlock("status", "churn")).code == 0 and run, 60)  # every stream is back
    assert "answers         churn/1" in shown.out
    story = interlock.sentences()
    stepped = next(line for line in story if "step back from churn/2 at" in line)
    assert "“it calls everybody”" in stepped
    assert any("rolled churn/2 back: version 1 answers" in line for line in story)
    assert interlock.must("audit", "verify", "--json").json()["ok"]


def test_without_a_gateway_process_the_step_back_is_written_all_the_same(
    night: tuple[Night, dict[str, Any]],
) -> None:
    """The host crashed by the bad version, say: from its next start on the former champion answers."""
    interlock, running = night
    running["gateway"].terminate()
    assert running["gateway"].wait(30) == 0
    done = interlock.must("gateway", "rollback", "churn", "--reason", "it kills workers", "--json").json()
    assert done == {"answers": 1, "withdrawn": [2]}
    address = running["control"].address
    running["control"].end(signal.SIGKILL)
    running["gateway"] = interlock.start_gateway(address)
    until(lambda: interlock.score() == (1, ["stepped_back"]))


def test_a_model_is_stopped_and_started_and_rolled_back(night: tuple[Night, dict[str, Any]]) -> None:
    """Each takes effect before the command returns, is in the status, and has its sentence in the story."""
    interlock, _ = night
    interlock.must("model", "stop", "churn", "--reason", "wrong prices")
    assert interlock.score() == (-1, ["MODEL_STOPPED"])
    shown = interlock("status", "churn")
    assert (shown.code, "stopped it: wrong prices" in shown.out) == (1, True)
    assert "Next: interlock model start churn" in shown.err
    interlock.must("rollback", "churn", "--reason", "older prices are right")
    interlock.must("model", "start", "churn", "--reason", "older prices")
    assert interlock.score() == (1, [])
    shown = interlock.must("status", "churn")
    assert "All is well." in shown.out
    story = "\n".join(interlock.sentences())
    assert "stopped churn: version 2 answers nobody: “wrong prices”" in story
    assert "started churn again: version 1 answers" in story


def test_scores_go_on_after_the_control_planes_directory_was_lost_and_restored(
    night: tuple[Night, dict[str, Any]],
) -> None:
    """The gateway serves what it has, refuses the restored history, and follows it when an operator says so."""
    interlock, running = night
    interlock.must("backup", "kept")
    address = running["control"].address
    running["control"].end(signal.SIGKILL)
    shutil.rmtree(interlock.data / "control")
    restored = interlock.must("restore", "kept", "--yes")
    assert "interlock gateway accept-history" in restored.err
    assert interlock.score() == (2, [])
    running["control"] = interlock.start_control(address)
    shown = until(lambda: (run := interlock("status")).code == 1 and "TABLE_REFUSED" in run.out and run, 60)
    assert "accept-history" in shown.out
    assert interlock.score() == (2, [])
    accepted = interlock.must("gateway", "accept-history", "--yes")
    assert "This gateway follows history" in accepted.out
    assert interlock.score() == (2, [])
    until(lambda: interlock("status").code == 0)
    nothing = interlock("gateway", "accept-history", "--yes")
    assert (nothing.code, "offers no other" in nothing.err) == (1, True)


def test_a_rollback_names_the_gateway_that_is_away_and_reaches_it_when_it_is_back(
    night: tuple[Night, dict[str, Any]],
) -> None:
    """It is committed all the same, and the status is not well as long as the gateway may answer by what it had."""
    interlock, running = night
    running["gateway"].terminate()
    assert running["gateway"].wait(30) == 0
    gateway_id = (interlock.data / "gateway" / "gateway.id").read_text()
    done = until(lambda: (run := interlock("rollback", "churn", "--reason", "it errs")).code == 0 and run)
    assert f"Not connected, though here within the last day: {gateway_id}" in done.out
    shown = interlock("status", "churn")
    assert (shown.code, f"GATEWAY_AWAY: gateway {gateway_id} is not connected" in shown.out) == (1, True), shown.out
    running["gateway"] = interlock.start_gateway(running["control"].address)
    until(lambda: interlock.score() == (1, []))
    until(lambda: interlock("status", "churn").code == 0, 60)
