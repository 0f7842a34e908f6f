"""The page for callers, tried: its commands are run as they stand, its tables compared with what they describe."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
import pytest

from gateway.contract.errors import CATALOGUE, Reason
from gateway.v1 import scoring_pb2 as pb
from gateway.v1 import scoring_pb2_grpc as rpc
from tests.gateway import zoo
from tests.gateway.gateways import Gateway, gateway
from tests.support import until

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "clients.md").read_text()
JAVA_TOOLS: Final = ("java", "javac", "protoc", "grpc_java_plugin")
JAVA_LIBRARIES: Final = ("grpc-netty", "grpc-protobuf", "grpc-stub", "protobuf", "netty-all", "perfmark-api", "gson")
CALLERS: Final = {*takewhile(lambda reason: reason is not Reason.UNAUTHENTICATED, Reason), Reason.OUTCOMES_NOT_KEPT}
"""The reasons that a caller of the serving port can meet."""


class Program(NamedTuple):
    """An example, compiled by the page's commands."""

    command: list[str]
    cwd: Path
    environment: dict[str, str]

    def run(self, address: str, model: str, subscriber: str) -> tuple[int, dict[str, str]]:
        """Its exit code, and what it printed as facts."""
        done = subprocess.run(
            [*self.command, address, model, subscriber],
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        facts = re.match(r"(\w+=.*?)(?: message=(.*))?$", done.stdout.strip())
        assert facts, done.stderr
        found = dict(item.split("=", 1) for item in re.split(r" (?=\w+=)", facts[1]))
        return done.returncode, {**found, "message": facts[2] or ""}


class Unsteady(grpc.GenericRpcHandler):
    """A way to a gateway that is refused twice before it opens; it counts the attempts."""

    def __init__(self, address: str) -> None:
        self.attempts = 0
        self._channel = grpc.insecure_channel(address)

    def service(self, details: Any) -> Any:
        """Every method alike."""

        def forward(request: bytes, context: grpc.ServicerContext) -> Any:
            self.attempts += 1
            if self.attempts < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return self._channel.unary_unary(details.method)(request, timeout=10)

        return grpc.unary_unary_rpc_method_handler(forward)

    def close(self) -> None:
        """Closes the way."""
        self._channel.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    data = tmp_path_factory.mktemp("clients") / "gateway"
    data.mkdir()
    zoo.place(data)
    with gateway(data) as opened:
        until(opened.ready)
        yield opened


@pytest.fixture(params=["python", "java"], scope="module")
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    if request.param == "java":
        absent = [tool for tool in JAVA_TOOLS if not shutil.which(tool)]
        absent += [name for name in JAVA_LIBRARIES if not Path(f"/usr/share/java/{name}.jar").exists()]
        if absent:
            pytest.skip(f"a Java client is compiled where its tools are; absent here: {', '.join(absent)}")
    *commands, last = joined(block("sh", f"examples/{request.param}/"))
    place = tmp_path_factory.mktemp(request.param)
    for name in ("proto", "examples"):
        (place / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "set -eu\n" + "\n".join(commands)
    subprocess.run(["bash", "-c", script], cwd=place, env=environment, check=True, timeout=170)
    words = last.replace("'", "").split()
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    assert words[-3:] == ["$ADDRESS", "$MODEL", "$SUBSCRIBER"]
    if words[0] == "python":  # without site, so that the stubs are those just compiled, and not this installation's
        words.insert(1, "-S")
        environment["PYTHONPATH"] += f":{Path(grpc.__file__).parents[1]}"
    return Program(words[:-3], place, environment)


def block(language: str, having: str) -> str:
    """The page's one block of a language that has a text."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if having in text]
    assert len(found) == 1
    return str(found[0])


def joined(commands: str) -> list[str]:
    """Commands, a line each."""
    return commands.replace("\\\n", " ").strip().splitlines()


def table(header: str) -> list[list[str]]:
    """The rows of the page's table whose first column has this header."""
    lines = PAGE.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header} |"))
    rows = takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def test_the_program_scores(running: Gateway, program: Program) -> None:
    """Compiled and started by the page's own commands, with stubs made from our protos."""
    code, facts = program.run(running.supervisor()["address"], "churn", "S7")
    assert (code, facts["version"], facts["revision"], facts["decision"]) == (0, "3", "7", "call")
    assert float(facts["score"]) == pytest.approx(zoo.churn_score(7, 2, "tx"), abs=1e-6)
    assert (len(facts["prediction"]), facts["flags"]) == (28, "[]")
    assert program.run(running.supervisor()["address"], "churn", "nobody")[1]["flags"] == "[FLAG_ENTITY_UNKNOWN]"


def test_the_program_reads_the_reason_of_an_error(running: Gateway, program: Program) -> None:
    """Out of the ErrorInfo, with the code and the message beside it."""
    code, facts = program.run(running.supervisor()["address"], "nope", "S7")
    assert (code, facts["code"], facts["reason"]) == (1, "NOT_FOUND", "MODEL_UNKNOWN")
    assert "'nope'" in facts["message"]
    assert program.run(running.supervisor()["address"], "strict", "nobody")[1]["reason"] == "FEATURE_MISSING"


def test_the_program_repeats_what_was_unavailable(running: Gateway, program: Program) -> None:
    """By its service config alone: two refusals, and the score."""
    way = Unsteady(running.supervisor()["address"])
    server = grpc.server(ThreadPoolExecutor(2), handlers=(way,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        code, facts = program.run(f"127.0.0.1:{port}", "churn", "S7")
    finally:
        server.stop(0).wait()
        way.close()
    assert (code, way.attempts, facts["decision"]) == (0, 3, "call")


def test_grpc_takes_the_service_config_of_the_page_and_the_programs_have_it(running: Gateway) -> None:
    """One config, in three places."""
    config = json.loads(block("json", "methodConfig"))
    options = [("grpc.service_config", json.dumps(config)), ("grpc.keepalive_time_ms", 65_000)]
    with grpc.insecure_channel(running.supervisor()["address"], options) as channel:
        request = pb.ScoreRequest(model="churn", entities={"subscriber": "S1"})
        assert rpc.ScoringServiceStub(channel).Score(request, timeout=10).model == "churn"
    (retry,) = [item["retryPolicy"] for item in config["methodConfig"]]
    python = ast.parse((ROOT / "examples" / "python" / "score.py").read_text())
    (value,) = [
        node.value for node in python.body if isinstance(node, ast.Assign) and "RETRY" in ast.dump(node.targets[0])
    ]
    assert ast.literal_eval(value) == retry
    java = (ROOT / "examples" / "java" / "Score.java").read_text()
    for name, given in retry.items():
        said = f"List.of{tuple(given)}".replace(",)", ")") if isinstance(given, list) else json.dumps(given)
        assert f'"{name}", {said}'.replace("'", '"') in java, name


def test_the_page_has_every_reason_that_a_caller_can_meet_with_its_code() -> None:
    """Reason by reason, as the catalogue has it."""
    assert {row[0]: row[1] for row in table("reason")} == {reason: CATALOGUE[reason].code.name for reason in CALLERS}


def test_the_page_repeats_by_itself_what_the_service_config_repeats() -> None:
    """UNAVAILABLE at once, and nothing else."""
    config = json.loads(block("json", "methodConfig"))
    retried = config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"]
    assert {row[1] for row in table("reason") if row[2] == "at once"} == set(retried)
    assert all(row[2] == "at once" for row in table("reason") if row[1] in retried)


def test_the_page_has_every_field_arm_and_flag_of_a_reply() -> None:
    """As the proto has them now."""
    rows = table("`ScoreResponse`")
    fields = {descriptor.name for descriptor in pb.ScoreResponse.DESCRIPTOR.fields}
    assert {row[0] for row in rows} - {""} == fields
    assert {row[1] for row in rows} == {descriptor.name for descriptor in pb.ScoreBatchResponse.DESCRIPTOR.fields}
    for message in (pb.RowError, pb.RowFlags, pb.LabelledScore, pb.ScoreStreamResponse):
        assert all(f"`{descriptor.name}`" in PAGE for descriptor in message.DESCRIPTOR.fields), message.DESCRIPTOR.name
    assert {row[0] for row in table("arm")} == set(pb.Arm.keys())
    assert {row[0] for row in table("flag")} == set(pb.Flag.keys()) - {"FLAG_UNSPECIFIED"}
    assert {row[0] for row in table("call")} == {
        m.name for m in pb.DESCRIPTOR.services_by_name["ScoringService"].methods
    }


def test_the_page_is_right_about_what_chance_makes_of_connections() -> None:
    """The kernel gives each connection to any of 8 workers alike."""
    random = np.random.default_rng(1)
    for per_worker, idle, busiest in table("connections per worker"):
        count = 8 * int(per_worker)
        drawn = [np.bincount(random.integers(0, 8, count), minlength=8).max() for _ in range(5_000)]
        assert round((7 / 8) ** count * 100) == int(idle.removesuffix(" %"))
        assert np.mean(drawn) / int(per_worker) == pytest.approx(float(busiest.split()[0]), abs=0.06)
