"""`interlock up MODEL.onnx` and `interlock model check`: what a newcomer does first, and pastes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.test_up import Interlock, here

__all__ = ["here"]

FIXTURES = Path(__file__).parents[1] / "exporters" / "fixtures"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Interlock, dict[str, Any]]]:
    """A LightGBM file as its converter writes it, on trial."""
    interlock = Interlock([str(BIN / "interlock")], tmp_path_factory.mktemp("trial"))
    shutil.copy(FIXTURES / "lightgbm.onnx", interlock.cwd / "credit.onnx")
    with interlock.up("credit.onnx") as (_, said):
        yield interlock, said


def python(interlock: Interlock, code: str) -> str:
    """What the code prints, run as a file in the environment."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=interlock.cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def score(interlock: Interlock, said: dict[str, Any]) -> dict[str, Any]:
    """What the printed shell call gives."""
    command, *arguments = shlex.split(said["calls"]["shell"])
    assert command == "interlock"
    found: dict[str, Any] = interlock.must(*arguments, "--json").json()
    return found


def test_the_printed_shell_call_scores_and_is_marked(running: tuple[Interlock, dict[str, Any]]) -> None:
    """The row is one that the model's own trees suggest, and nobody approved the version."""
    answer = score(*running)
    assert (answer["model"], answer["version"], answer["flags"]) == ("credit", 1, ["unapproved"])
    assert 0 < answer["score"] < 1


def test_the_printed_python_call_works(running: tuple[Interlock, dict[str, Any]]) -> None:
    """By our stubs, with the same answer."""
    interlock, said = running
    printed = python(interlock, said["calls"]["python"])
    assert "FLAG_UNAPPROVED" in printed
    assert f"score: {score(interlock, said)['score']:.6g}"[:12] in printed


def test_the_printed_tritonclient_call_works(running: tuple[Interlock, dict[str, Any]]) -> None:
    """By the graph's own tensors, marked in the parameters."""
    interlock, said = running
    printed = python(interlock, said["calls"]["tritonclient"])
    assert "interlock_flags" in printed
    assert "unapproved" in printed


def test_the_printed_grpcurl_call_is_one_that_reflection_allows(running: tuple[Interlock, dict[str, Any]]) -> None:
    """Address, method and JSON are taken from the line, and the contract from the port, as grpcurl does."""
    interlock, said = running
    command, plaintext, flag, request, address, method = shlex.split(said["calls"]["grpcurl"])
    assert (command, plaintext, flag) == ("grpcurl", "-plaintext", "-d")
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service, _, name = method.partition("/")
        found = pool.FindServiceByName(service).FindMethodByName(name)
        message = json_format.Parse(request, GetMessageClass(found.input_type)())
        answers = GetMessageClass(found.output_type)
        call = channel.unary_unary(f"/{method}", lambda m: m.SerializeToString(), answers.FromString)
        answer = json_format.MessageToDict(call(message, timeout=10))
    assert answer["flags"] == ["FLAG_UNAPPROVED"]
    assert answer["score"] == pytest.approx(score(interlock, said)["score"])


def test_a_batch_is_marked_row_by_row(running: tuple[Interlock, dict[str, Any]]) -> None:
    """Every reply says it, also where many rows are answered at once."""
    interlock, _ = running
    (interlock.cwd / "rows.csv").write_text("input_1,input_2,input_3,input_4\n0.5,0.5,0.5,0.5\n1.5,1.5,1.5,1.5\n")
    given = [part for place in range(1, 5) for part in ("--input", f"input_{place}")]
    rows = interlock.must("score", "credit", "--file", "rows.csv", *given, "--json").json()["rows"]
    assert [row["flags"] for row in rows] == [["unapproved"]] * 2


def test_status_says_what_is_on_trial(running: tuple[Interlock, dict[str, Any]]) -> None:
    """It is healthy, and not what production would be."""
    interlock, _ = running
    shown = interlock.must("status", "credit")
    assert "credit/1 on trial" in shown.out
    assert "unapproved" in shown.out
    assert "put credit/1 on trial, unapproved" in interlock.must("model", "history", "credit").out


def test_a_changed_file_is_the_next_version_and_one_person_can_try_four_eyes(here: Interlock) -> None:
    """The story of a newcomer: try, change, try again, approve with the other token, promote."""
    trained = here.cwd / "credit.onnx"
    shutil.copy(FIXTURES / "lightgbm.onnx", trained)
    with here.up("credit.onnx") as (process, said):
        assert (said["version"], score(here, said)["version"]) == (1, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    with here.up("credit.onnx") as (process, said):
        assert said["version"] == 1, "the same file is the same version"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    shutil.copy(FIXTURES / "xgboost.onnx", trained)
    with here.up("credit.onnx") as (_, said):
        assert (said["version"], score(here, said)["version"]) == (2, 2)
        submitter, approver = (("--token-file", said[f"{who}_token_file"]) for who in ("submitter", "approver"))
        own = here("approval", "approve", "credit/2", *submitter)
        assert (own.code, "ROLE_MISSING" in own.err) == (1, True)
        here.must("approval", "approve", "credit/2", *approver)
        here.must("model", "promote", "credit/2", *approver)
        assert (score(here, said)["version"], score(here, said)["flags"]) == (2, [])
        assert oct((here.cwd / said["approver_token_file"]).stat().st_mode)[-3:] == "600"


def test_a_normal_start_serves_nothing_unapproved_any_more(here: Interlock) -> None:
    """The same directory, started as for production: the trial is over, on the gateway too."""
    shutil.copy(FIXTURES / "lightgbm.onnx", here.cwd / "credit.onnx")
    with here.up("credit.onnx") as (process, said):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    with here.up() as (_, again):
        assert again["submitter_token_file"] == said["submitter_token_file"]
        refused = here(*shlex.split(said["calls"]["shell"])[1:])
        assert (refused.code, "MODEL_UNKNOWN" in refused.err) == (1, True)


def test_a_file_that_cannot_be_served_is_refused_before_anything_starts(here: Interlock) -> None:
    """With what to do, and where to read more."""
    shutil.copy(FIXTURES / "pickle.onnx", here.cwd)
    refused = here("up", "pickle.onnx", "--ports", "auto")
    assert refused.code == 1
    assert "the file is a pickle" in refused.err
    assert "interlock model check pickle.onnx" in refused.err
    assert not (here.cwd / ".interlock").exists()


@pytest.mark.parametrize("fixture", ["xgboost", "sklearn_text_labels", "torch_ranking", "torch_one_row"])
def test_model_check_says_what_passed_without_a_server(here: Interlock, fixture: str) -> None:
    """Document and rows are made up where there are none."""
    found = here.must("model", "check", str(FIXTURES / f"{fixture}.onnx"), "--json").json()
    assert (found["ok"], found["refused"]) == (True, None)
    assert "one finite score a row" in found["passed"]
    assert any("no golden rows were given" in warning for warning in found["warnings"])


def test_model_check_says_what_is_rewritten_and_what_is_wrong(here: Interlock) -> None:
    """In words, with the exit code."""
    shutil.copy(FIXTURES / "lightgbm.onnx", here.cwd)
    good = here.must("model", "check", "lightgbm.onnx")
    assert "ZipMap" in good.out
    assert "interlock up lightgbm.onnx" in good.err
    here.must("model", "init", "lightgbm.onnx")
    unfinished = here("model", "check", "lightgbm.onnx", "model.yaml")
    assert (unfinished.code, "purpose" in unfinished.out) == (1, True)
    text = (here.cwd / "model.yaml").read_text()
    (here.cwd / "model.yaml").write_text(text.replace('purpose: ""', "purpose: x").replace('person: ""', "person: ann"))
    (here.cwd / "golden.csv").write_text("input_1,input_2,input_3,input_4,expected\n1,1,1,1,0.123\n")
    wrong = here("model", "check", "lightgbm.onnx", "model.yaml", "--golden", "golden.csv", "--json")
    assert wrong.code == 1
    assert wrong.json()["refused"]["check"] == "golden_rows"
    assert "runs" in wrong.json()["passed"]


def test_the_operators_commands_need_no_third_person(here: Interlock) -> None:
    """Where people hold tokens already, `up` makes none."""
    with here.up() as (process, said):
        assert json.loads(here.must("token", "list", "--json").out)["tokens"][0]["actor"] in ("submitter", "approver")
        for who in ("submitter", "approver"):
            os.unlink(here.cwd / said[f"{who}_token_file"])
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    with here.up() as (_, again):
        assert "submitter_token_file" not in again
