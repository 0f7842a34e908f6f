"""What the command line prints, and where it finds the services."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from control import places
from control.cli.hints import decide
from control.cli.output import Output, moment, plain, size
from control.cli.status import problems
from control.connection import is_loopback
from control.v1 import governance_pb2, registry_pb2, rollout_pb2
from gateway.board import Board
from gateway.v1 import scoring_pb2

NS = 1_000_000_000


def test_a_message_becomes_json_that_programs_can_compute_with() -> None:
    """Numbers stay numbers (proto's own JSON makes int64 text), enums become words, absent stays absent."""
    message = scoring_pb2.ScoreResponse(model="churn", version=3, arm=scoring_pb2.ARM_CHAMPION, score=math.nan)
    message.flags.append(scoring_pb2.FLAG_ENTITY_UNKNOWN)
    found = plain(message)
    assert isinstance(found, dict)
    assert (found["version"], found["arm"], found["flags"], found["score"]) == (3, "champion", ["entity_unknown"], None)
    assert "feature_age_ms" not in found
    assert json.loads(json.dumps(found)) == found


def test_canonical_json_inside_a_message_is_opened() -> None:
    """A manifest is an object to whoever reads it, not a text to be parsed again."""
    message = registry_pb2.GetVersionResponse(manifest_json='{"a":1}', version=registry_pb2.Version(version=2))
    found = plain(message)
    assert isinstance(found, dict)
    assert (found["manifest"], found["admission"], found["version"]["version"]) == ({"a": 1}, None, 2)


def test_json_is_one_document_and_people_get_words(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json nothing else is on standard output, and notes are not printed at all."""
    out = Output(as_json=True)
    out.result({"a": [1, 2]}, "for people")
    out.note("Next: nothing")
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == ({"a": [1, 2]}, "")
    Output().result({"a": 1}, "for people")
    assert capsys.readouterr().out == "for people\n"


def test_a_failure_is_json_on_standard_error_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A program reads the reason, a person the sentence."""
    Output(as_json=True).failure("MODEL_UNKNOWN", "no model", {"model": "x"})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err) == {"reason": "MODEL_UNKNOWN", "message": "no model", "facts": {"model": "x"}}
    Output().failure("MODEL_UNKNOWN", "no [model] called x", {})
    assert capsys.readouterr().err == "MODEL_UNKNOWN: no [model] called x\n"


def test_times_and_sizes_are_for_people() -> None:
    """UTC, and how long ago; the unit that reads best."""
    assert moment(NS, now_ns=2 * 86_400 * NS) == "1970-01-01 00:00:01Z (1 d ago)"
    assert moment(0) == ""
    assert (size(10), size(3 << 20)) == ("10 bytes", "3.0 MiB")


def test_the_running_services_are_found_in_the_data_directory(tmp_path: Path) -> None:
    """The control plane leaves a file, the gateway its board; what a dead process left is passed over."""
    assert (places.control_place(tmp_path), places.gateway_place(tmp_path)) == (None, None)
    run = tmp_path / "control" / "run"
    run.mkdir(parents=True)
    address = run / "address"
    address.write_text(json.dumps({"address": "127.0.0.1:1", "pid": os.getpid()}))
    assert places.control_place(tmp_path) == ("127.0.0.1:1", os.getpid())
    address.write_text(json.dumps({"address": "127.0.0.1:1", "pid": 2**22 + 1}))
    assert places.control_place(tmp_path) is None
    ports = {"address": "127.0.0.1:2", "admin_address": "127.0.0.1:3", "metrics_address": "127.0.0.1:4"}
    board = Board(tmp_path / "gateway" / "run" / "supervisor.board")
    board.write({**ports, "pid": os.getpid()})
    assert places.gateway_place(tmp_path) == (*ports.values(), os.getpid())


def test_plaintext_is_for_this_host_alone() -> None:
    """A token must not cross a network in the open."""
    assert all(map(is_loopback, ("127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1")))
    assert not any(map(is_loopback, ("10.0.0.1:1", "control.example:7400", "0.0.0.0:1")))


def test_what_models_and_gateways_say_is_wrong_is_one_list() -> None:
    """Whoever watches `interlock status` needs one answer: is anything wrong, and what."""
    model = rollout_pb2.ModelStatus(model="churn", problems=["nobody answers"])
    gateway = rollout_pb2.GatewayStatus(gateway_id="g", problems=["disk full"])
    assert problems(rollout_pb2.GetStatusResponse(models=[model], gateways=[gateway])) == [
        "churn: nobody answers",
        "gateway g: disk full",
    ]
    assert problems(rollout_pb2.GetStatusResponse(models=[rollout_pb2.ModelStatus(model="churn")])) == []


def test_the_next_command_follows_from_what_is_there() -> None:
    """Register, approve, promote: the first that can be done, and nothing of them once somebody answers."""
    pending = governance_pb2.Approval(model="churn", version=2, state="pending")
    approved = governance_pb2.Approval(model="churn", version=2, state="approved")
    old = governance_pb2.Approval(model="churn", version=1, state="approved")
    assert decide({}, []) == "interlock model init MODEL.onnx"
    assert decide({"churn": 1}, [pending, old]) == "interlock approval approve churn/2"
    assert decide({"churn": 1}, [approved, old]) == "interlock rollout start churn 2"
    assert decide({}, [approved, old]) == "interlock model promote churn/2"
    assert decide({"churn": 1}, [old]) == ""
    assert decide({"churn": 3}, [pending, old]) == "", "what is older than who answers is no next step"
