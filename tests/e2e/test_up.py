"""`interlock up`: from a wheel on a clean machine as a stranger would, and when things go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from tests.support import until

ROOT = Path(__file__).parents[2]
SOURCES = ("gateway", "control", "proto", "data", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE")
WEIGHT, BIAS = 0.02, -1.5


class Run(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its one document."""
        return json.loads(self.out)


class Interlock(NamedTuple):
    """An installation's command, run in a directory."""

    command: Sequence[str]
    cwd: Path

    def __call__(self, *arguments: str) -> Run:
        """Runs it to its end."""
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.cwd,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def must(self, *arguments: str) -> Run:
        """Runs it; fails where it does."""
        run = self(*arguments)
        assert run.code == 0, f"{' '.join(arguments)}: {run.err}"
        return run

    @contextmanager
    def up(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
        """`interlock up` on free ports, from when it says that it is ready."""
        out, err = self.cwd / "up.out", self.cwd / "up.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*self.command, "up", "--ports", "auto", "--workers", "1", "--json", *arguments],
                cwd=self.cwd,
                env=environment(),
                stdout=stdout,
                stderr=stderr,
            )
        try:
            until(lambda: out.read_text().endswith("\n") or process.poll() is not None, 60)
            assert process.poll() is None, err.read_text()
            yield process, json.loads(out.read_text())
        finally:
            process.kill()
            process.wait()


def environment() -> Mapping[str, str]:
    """A shell's, without anything that would lead to this repository or to another installation."""
    gone = ("INTERLOCK_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(gone)}


@pytest.fixture
def here(tmp_path: Path) -> Interlock:
    """The command of this environment, in an empty directory."""
    return Interlock([str(Path(sys.executable).with_name("interlock"))], tmp_path)


def install(place: Path) -> Interlock:
    """Builds the wheel from a copy of the sources and installs the base of it into a clean environment."""
    (place / "source").mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / "source" / name)
    run_module(place, "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", "./source")
    run_module(place, "venv", "--without-pip", "clean")
    home = place / "home"
    home.mkdir()
    install_extra(place, "")
    return Interlock([str(place / "clean" / "bin" / "interlock")], home)


def install_extra(place: Path, extra: str) -> None:
    """Installs the wheel, with what the extra adds."""
    (wheel,) = (place / "wheels").glob("*.whl")
    constraint = ("--constraint", str(ROOT / "constraints.txt"))
    run_module(place, "pip", "--python", "clean/bin/python", "install", "--quiet", *constraint, f"{wheel}{extra}")


def run_module(place: Path, *arguments: str) -> None:
    """Runs a module of this environment's Python; shows what it printed where it fails."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def write_model(path: Path) -> None:
    """A logistic regression on one stored feature, as ONNX."""
    nodes = [
        helper.make_node("MatMul", ["minutes", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, [1, 1], [WEIGHT]),
        helper.make_tensor("b", TensorProto.FLOAT, [1], [BIAS]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("minutes", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def expected(minutes: float) -> float:
    """What the model answers."""
    return float(1 / (1 + np.exp(-(WEIGHT * minutes + BIAS))))


VIEW = """\
name: usage
entity: subscriber
features:
  - {name: minutes, type: float32, default: 0}
"""
DOCUMENT = """\
name: churn
task: binary
purpose: Says who may leave.
owner: {{person: ann}}
entities: [subscriber]
views: {{usage: {hash}}}
inputs:
  - {{view: usage, feature: minutes, feeds: minutes}}
output: {{score: probability}}
decision: {{kind: threshold, threshold: 0.5, hit: call, otherwise: leave}}
"""


def prepare_files(home: Path, view_hash: str) -> None:
    """What a trainer hands over."""
    write_model(home / "churn.onnx")
    (home / "model.yaml").write_text(DOCUMENT.format(hash=view_hash))
    golden = "".join(f"{minutes},{expected(minutes):.9g}\n" for minutes in (0, 10, 75.5, 200))
    (home / "golden.csv").write_text(f"usage.minutes,expected\n{golden}")
    (home / "train.csv").write_text("minutes,churn\n1,0\n")
    (home / "metrics.json").write_text('{"auc": 0.9}')


def serve_a_model(interlock: Interlock) -> None:
    """From tokens to an answering version, every step by a command that a message or the help suggests."""
    home = interlock.cwd
    for name, roles in {"ann": ("data_scientist", "feature_writer"), "bob": ("approver", "ml_engineer")}.items():
        given = [part for role in roles for part in ("--role", role)]
        (home / f"{name}.token").write_text(interlock.must("token", "create", name, *given).out)
    ann, bob = ("--token-file", "ann.token"), ("--token-file", "bob.token")
    (home / "usage.yaml").write_text(VIEW)
    applied = interlock.must("features", "apply", "usage.yaml", "--json", *ann).json()["applied"][0]
    rows = "".join(f"S{index},2026-01-31T12:00:00Z,{index}\n" for index in range(300))
    (home / "rows.csv").write_text(f"subscriber,event_time,minutes\n{rows}")
    sent = interlock.must("features", "materialize", "usage", "rows.csv", "--json", *ann).json()
    assert (sent["rows"], sent["batches"]) == (300, 1)
    prepare_files(home, applied["view"]["hash"])
    described = interlock.must("model", "init", "churn.onnx", "--view", "usage", "--out", "drafted.yaml")
    assert f"usage: {applied['view']['hash']}" in (home / "drafted.yaml").read_text()
    assert "interlock model register drafted.yaml" in described.err
    registered = interlock.must(
        *("model", "register", "model.yaml", "--onnx", "churn.onnx", "--golden", "golden.csv"),
        *("--lineage", "training_data=train.csv", "--commit", "abc123", "--metrics", "metrics.json", *ann),
    )
    assert "churn/1 is registered, submitted by ann" in registered.out
    assert "interlock approval approve churn/1" in registered.err
    refused = interlock("approval", "approve", "churn/1", *ann)
    assert (refused.code, "ROLE_MISSING" in refused.err) == (1, True)
    interlock.must("approval", "approve", "churn/1", "--comment", "fine", *bob)
    promoted = interlock.must("model", "promote", "churn/1", "--json", *bob).json()
    assert (len(promoted["confirmed"]), promoted["pending"]) == (1, [])


def check_answers(interlock: Interlock) -> None:
    """Scores one by one and from a file, and what the installation says of itself."""
    one = interlock.must("score", "churn", "--entity", "subscriber=S200", "--json").json()
    assert abs(one["score"] - expected(200)) < 1e-6
    assert (one["version"], one["decision"], one["arm"], one["flags"]) == (1, "call", "champion", [])
    unknown = interlock.must("score", "churn", "--entity", "subscriber=nobody", "--json").json()
    assert (unknown["flags"], unknown["defaulted"]) == (["entity_unknown"], 1)
    assert abs(unknown["score"] - expected(0)) < 1e-6
    many = interlock.must("score", "churn", "--file", "rows.csv", "--out", "scores.csv", "--json").json()
    assert [row["subscriber"] for row in many["rows"]] == [f"S{index}" for index in range(300)]
    assert all(abs(row["score"] - expected(index)) < 1e-6 for index, row in enumerate(many["rows"]))
    assert len((interlock.cwd / "scores.csv").read_text().splitlines()) == 301
    wrong = interlock("score", "churn", "--entity", "customer=S200", "--json")
    assert (wrong.code, json.loads(wrong.err)["reason"]) == (1, "ENTITY_MISMATCH")


def check_records(interlock: Interlock) -> None:
    """What the installation says of itself."""
    status = interlock.must("status", "churn")
    assert "All is well." in status.out
    assert "interlock score churn --entity subscriber=KEY" in status.err
    (row,) = interlock.must("features", "get", "subscriber", "S200", "--json").json()["rows"]
    assert row["features"] == [{"name": "minutes", "value": "200.0"}]
    shown = interlock.must("model", "show", "churn/1", "--json").json()
    lineage = {entry["name"]: entry["sha256"] for entry in shown["manifest"]["lineage"]}
    assert lineage["training_data"] == hashlib.sha256((interlock.cwd / "train.csv").read_bytes()).hexdigest()
    assert "champion" in interlock.must("model", "list", "churn").out
    verified = interlock.must("audit", "verify", "--json").json()
    actions = [entry["action"] for entry in interlock.must("audit", "list", "churn/1", "--json").json()["entries"]]
    assert (verified["ok"], actions[0], actions[-1]) == (True, "version.promote", "version.register")


@pytest.mark.timeout(300)
def test_a_stranger_installs_the_wheel_and_serves_a_model(tmp_path: Path) -> None:
    """Outside of the repository, in an environment that has nothing else: once, for it takes half a minute."""
    interlock = install(tmp_path)
    for command in ("control", "up"):
        told = interlock(command)
        assert (told.code, "pip install 'interlock[control]'" in told.err) == (2, True), told.err
    client = Interlock([str(tmp_path / "clean" / "bin" / "python"), "-c"], interlock.cwd)
    assert "pip install 'interlock[control]'" in client("from control.client import check; check('x.onnx')").err
    assert "--admin-address" in interlock.must("gateway", "--help").out
    interlock.must("config", "show")
    for command in ("status", "model list", "audit verify", "score m --entity a=b", "features get a b"):
        assert interlock(*command.split()).code == 3
    install_extra(tmp_path, "[control]")
    with interlock.up() as (process, said):
        assert said["operator_token_file"] == ".interlock/control/operator.token"
        serve_a_model(interlock)
        check_answers(interlock)
        check_records(interlock)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_both_services_run_until_asked_to_stop(here: Interlock) -> None:
    """SIGTERM drains the gateway, then the control plane; nothing is left but the data directory."""
    with here.up("--data", "d") as (process, said):
        assert here.must("status", "--data", "d", "--json").json()["status"]["gateways"] != []
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not psutil.wait_procs(family, timeout=5)[1]
    assert "Both services have drained" not in (here.cwd / "up.err").read_text(), "--json prints nothing for people"
    gone = here("status", "--data", "d")
    assert (gone.code, gone.err.startswith("NOT_RUNNING")) == (3, True)
    assert said["pid"] == process.pid


@pytest.mark.parametrize("service", ["control", "gateway"])
def test_a_service_that_dies_is_said_and_ends_the_other(here: Interlock, service: str) -> None:
    """Half an installation is none: whoever supervises `interlock up` sees it end, and why."""
    with here.up("--data", "d") as (process, _):
        family = psutil.Process(process.pid).children(recursive=True)
        (victim,) = [child for child in family if child.cmdline()[1:4] == ["-m", service, f"--data=d/{service}"]]
        victim.kill()
        assert process.wait(30) == 1
        assert not psutil.wait_procs(family, timeout=15)[1]
    (error,) = [line for line in (here.cwd / "up.err").read_text().splitlines() if "SERVICE_ENDED" in line]
    assert f"the {service} service ended by SIGKILL" in json.loads(error)["message"]


def test_a_gateway_without_its_control_plane_is_shown_alone(here: Interlock) -> None:
    """Scoring goes on when the control plane is away, and `status` is what an operator types first."""
    with here.up("--data", "d") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    ports = [f"--{key}=127.0.0.1:0" for key in ("address", "admin-address", "metrics-address")]
    flags = ["--data=d/gateway", "--workers=1", "--control=127.0.0.1:9", "--token-file=d/control/gateway.token", *ports]
    command = [*here.command, "gateway", *flags]
    with subprocess.Popen(command, cwd=here.cwd, env=environment(), stderr=subprocess.DEVNULL) as gateway:
        shown = until(lambda: (run := here("status", "--data", "d", "--json")).code != 3 and run)
        gateway.terminate()
    assert (shown.code, shown.json()["healthy"], len(shown.json()["gateway"]["workers"])) == (1, False, 1)
    assert "the gateway goes on with what it has" in shown.json()["problems"][0]
    assert gateway.returncode == 0


def test_services_do_not_outlive_a_killed_parent(here: Interlock) -> None:
    """SIGKILL leaves no time to say anything; the services drain all the same."""
    with here.up("--data", "d") as (process, _):
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert not psutil.wait_procs(family, timeout=20)[1]


def test_a_port_that_is_taken_is_named(here: Interlock) -> None:
    """With the option that takes free ones."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (here.cwd / "interlock.toml").write_text(f'[control]\naddress = "{address}"\n')
        refused = here("up")
    assert refused.code == 1
    assert f"control.address = {address}: cannot listen there" in refused.err
    assert "`--ports auto` takes free ones" in refused.err
    assert "Traceback" not in refused.err


def test_a_directory_in_use_is_named(here: Interlock) -> None:
    """Two installations never share one data directory."""
    with here.up():
        second = here("up", "--ports", "auto")
    assert second.code == 1
    assert "uses this directory" in second.err
