"""The demo, as `make demo` runs it, once for real."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.support import until


class Ran(NamedTuple):
    """What a run of the demo left behind."""

    data: Path
    output: list[str]
    report: dict[str, Any]
    code: int


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run for the whole module."""
    place = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "control.demo", "--data", str(place / "data"), "--report", str(place / "r.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    print(done.stdout, done.stderr)
    report = json.loads((place / "r.json").read_text())
    return Ran(place / "data", done.stdout.strip().splitlines(), report, done.returncode)


def test_every_step_succeeds(ran: Ran) -> None:
    """The whole way, from a table to scores under a second version."""
    assert [step["name"] for step in ran.report["steps"] if not step["ok"]] == []
    assert ran.code == 0
    assert ran.report["ok"]


def test_every_score_is_that_of_scikit_learn(ran: Ran) -> None:
    """1,000 subscribers that no version was trained on, compared in float64."""
    assert ran.report["rows_scored"] == 1000
    assert 0 < ran.report["max_abs_diff"] <= 1e-5


def test_no_call_fails_while_a_version_is_promoted(ran: Ran) -> None:
    """Callers did not notice."""
    assert ran.report["calls_during_promotion"] >= 1000
    assert ran.report["failed_calls"] == 0


def test_planted_mistakes_are_rolled_back_by_themselves(ran: Ran) -> None:
    """Each kind, after callers met it, and whichever version answered them; no call failed for it."""
    found = {item["kind"]: item for item in ran.report["rollbacks"]}
    assert found.keys() == {"wrong_scores", "failing_calls", "quality"}
    assert all(item["rolled_back"] for item in found.values())
    assert all(0 < item["bad_replies"] <= item["requests_until_verdict"] for item in found.values())
    assert all(item["seconds_from_first_bad_reply"] >= 0 for item in found.values())


def test_every_step_is_one_line(ran: Ran) -> None:
    """With its name, its figure and its seconds."""
    names = [step["name"] for step in ran.report["steps"]]
    assert len(set(names)) == len(names)
    lines = [line for line in ran.output if line.startswith("✓ ")]
    assert len(lines) == len(names)
    assert all(line.startswith(f"✓ {name}") and line.endswith(" s") for line, name in zip(lines, names, strict=True))


def test_the_last_line_keeps_the_result_running(ran: Ran) -> None:
    """It can be pasted, and so can the commands that are shown to ask it."""
    command = ran.output[-1].split()
    assert command[1:] == ["up", "--data", str(ran.data)]
    # Free ports, so that nothing else on this machine is in its way.
    with subprocess.Popen([*command, "--ports", "auto", "--json"], stdout=subprocess.PIPE, text=True) as up:
        try:
            said = up.stdout
            assert said is not None
            until(lambda: select.select([said], [], [], 0)[0], 60)
            for asked in asked_beside(ran):
                done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
                assert done.returncode == 0, done.stdout + done.stderr
        finally:
            up.send_signal(signal.SIGINT)
    assert up.returncode == 0


def test_no_process_is_left(ran: Ran) -> None:
    """Whatever was started has ended."""
    assert left_of(ran.data) == []


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C in the middle, and a second one at once, end everything that was started, and the report says so."""
    data, report, log = tmp_path / "data", tmp_path / "r.json", tmp_path / "log"
    command = [sys.executable, "-m", "control.demo", "--data", str(data), "--report", str(report)]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file) as demo:
        until(lambda: "Start a gateway" in log.read_text(), 60)
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)
    assert demo.returncode == 1
    assert "demo stopped" in log.read_text().splitlines()[-1]
    assert not json.loads(report.read_text())["ok"]
    assert left_of(data) == []


def asked_beside(ran: Ran) -> list[list[str]]:
    """The commands above the last line."""
    shown = [line.split() for line in ran.output[:-1] if line.startswith(ran.output[-1].split()[0])]
    assert len(shown) == 4
    return shown


def left_of(data: Path) -> list[int]:
    """Processes that work on the directory."""
    return [process.pid for process in psutil.process_iter(["cmdline"]) if str(data) in _command(process)]


def _command(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or [])
