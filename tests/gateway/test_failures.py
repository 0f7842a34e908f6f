"""What the log says: a ration of each kind, nothing lost of the counts, and a line for every error id that was told."""

from __future__ import annotations

import io
import json
import logging
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from grpc import RpcError

from gateway import telemetry
from gateway.contract.errors import Reason
from gateway.contract.ration import MINUTE_NS, ErrorIds, Ration, cause_of
from gateway.failures import Failed, Failures
from gateway.features.store import OnlineStore
from gateway.journal import JournalWriter
from gateway.journal_reader import JournalReader
from gateway.telemetry import LOG, RationedLines, log, log_error
from gateway.transport import Call
from gateway.v1.scoring_pb2_grpc import ScoringServiceStub
from gateway.wire.status import internal
from tests.gateway.gateways import gateway
from tests.gateway.test_pipeline import call, churn, place, reason
from tests.support import until


def test_ten_of_a_kind_are_written_and_the_rest_is_counted() -> None:
    """Each kind has a bucket of its own."""
    ration = Ration()
    assert [ration.take("a", now_ns) for now_ns in range(25)] == [True] * 10 + [False] * 15
    assert ration.take("b", 25)
    assert ration.settle(30) == {}
    assert ration.settle(MINUTE_NS) == {"a": 15}
    assert ration.settle(2 * MINUTE_NS) == {}


def test_a_bucket_is_full_again_a_minute_after_its_first_line() -> None:
    """Whoever takes on before it was settled loses no count."""
    ration = Ration(most=1)
    assert [ration.take("a", now_ns) for now_ns in (0, 1, MINUTE_NS, MINUTE_NS + 1)] == [True, False, True, False]
    assert ration.settle(2 * MINUTE_NS) == {"a": 2}


def test_every_error_id_that_was_told_is_one_that_the_log_was_given() -> None:
    """However often an error comes: what is not written again is told by the id of what was."""
    numbers = count()
    ids = ErrorIds(lambda: f"id-{next(numbers)}", Ration(most=2))
    told = [ids.tell(cause, now_ns) for cause in ("one", "two") for now_ns in range(5)]
    written = {error_id for error_id, fresh in told if fresh}
    assert {error_id for error_id, _ in told} == written
    assert len(written) == 4
    assert ids.tell("one", MINUTE_NS) == ("id-4", True)


def test_a_cause_is_a_type_and_a_line_of_code() -> None:
    """Two errors of one line are one cause, whatever they say."""

    def caught(text: str) -> BaseException:
        try:
            int(text)
        except ValueError as error:
            return error
        raise AssertionError(text)

    assert cause_of(caught("x")) == cause_of(caught("y"))
    assert cause_of(caught("x")).startswith("ValueError in ")
    assert cause_of(KeyError("never raised")) == "KeyError"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Where this process logs meanwhile."""
    stream = io.StringIO()
    monkeypatch.setattr(LOG, "handlers", [RationedLines("test", stream)])
    monkeypatch.setattr(LOG, "propagate", False)
    LOG.setLevel(logging.INFO)
    return stream


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines so far."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_warnings_are_rationed_by_event_and_reason_and_what_is_told_of_errors_is_not(lines: io.StringIO) -> None:
    """What was left out is said at the latest when the process ends."""
    for _ in range(30):
        log(logging.WARNING, "refused", reason="A")
        log(logging.WARNING, "refused", reason="B")
        log(logging.INFO, "loaded")
        log_error("internal_error", ValueError("x"), error_id="1")
    telemetry.settle()
    found = [(line["event"], line.get("reason")) for line in written(lines)]
    assert {one: found.count(one) for one in found} == {
        ("refused", "A"): 10,
        ("refused", "B"): 10,
        ("loaded", None): 30,
        ("internal_error", None): 30,
    }
    LOG.handlers[0].close()
    assert [(line["of"], line["lines"]) for line in written(lines) if line["event"] == "suppressed"] == [
        ("refused A", 20),
        ("refused B", 20),
    ]


def test_an_internal_error_is_found_in_the_log_under_the_id_that_its_caller_was_told(lines: io.StringIO) -> None:
    """A hundred callers of one fault are told ids of at most ten lines."""

    def fail() -> str:
        try:
            int("torn")
        except ValueError as error:
            return internal(error).facts["error_id"]
        raise AssertionError

    told = {fail() for _ in range(100)}
    assert told == {line["error_id"] for line in written(lines)}
    assert len(told) == 10
    assert all("torn" in line["traceback"] for line in written(lines))


def test_failures_are_told_by_reason_model_and_version_with_an_example() -> None:
    """Only what is new, the worst first."""
    failed, other = Failed("MODEL_FAILED", "churn", 3), Failed("MODEL_UNKNOWN")
    failures = Failures({failed: 5})
    assert failures.lines({failed: 5}, 0) == []
    assert [dict(line.facts) for line in failures.lines({failed: 7, other: 4}, 1)] == [
        {"reason": "MODEL_UNKNOWN", "rows": 4},
        {"reason": "MODEL_FAILED", "rows": 2, "model": "churn", "version": 3},
    ]
    assert failures.lines({failed: 7, other: 4}, 2) == []
    (begun_anew,) = failures.lines({failed: 1, other: 4}, 3)
    assert begun_anew.facts["rows"] == 1
    assert begun_anew.level == logging.ERROR


def test_what_a_ration_leaves_out_is_in_the_next_line() -> None:
    """No failed row is missing from the sum of the lines, and no model is left out because others fail more."""
    failures = Failures({}, Ration(most=1))
    one, two = Failed("MODEL_FAILED", "one", 1), Failed("MODEL_FAILED", "two", 1)
    told = [failures.lines({one: 10 * t, two: t}, t * MINUTE_NS // 4) for t in range(1, 60)]
    rows = {"one": 0, "two": 0}
    for line in (line for lines in told for line in lines):
        rows[str(line.facts["model"])] += int(line.facts["rows"])
    assert rows["one"] > 500
    assert rows["two"] > 0


def test_the_journal_says_what_failed_calls_were_told(tmp_path: Path) -> None:
    """A refused call's message, and of a fault of ours the id."""
    pipeline = place(tmp_path)
    pipeline.journal = JournalWriter(tmp_path / "journal" / "worker-0", 1 << 20)
    pipeline.process([call(churn("S1"))])
    pipeline.process([Call("/gateway.v1.ScoringService/Score", b"\xff", 1 << 62)])
    pipeline.store = cast("OnlineStore", None)  # a fault of ours
    (reply,) = pipeline.process([call(churn("S1"))])
    assert reason(reply) == Reason.INTERNAL
    good, bad, ours = (block.notes for block in JournalReader(tmp_path / "journal").poll())
    assert good == b""
    assert "compile the protos" in json.loads(bad)["faults"]["MALFORMED_REQUEST"]
    assert json.loads(ours)["faults"]["INTERNAL"] == reply.message


def test_the_log_of_a_gateway_says_which_calls_failed(tmp_path: Path) -> None:
    """By the observer, and nothing of it by the worker."""
    with gateway(tmp_path / "gateway") as running:
        for _ in range(3):
            with running.channel() as channel, pytest.raises(RpcError):
                ScoringServiceStub(channel).Score(churn("S1"), timeout=20, wait_for_ready=True)
        found = until(lambda: [line for line in _log(running.log) if line.get("event") == "calls_failed"])
    assert sum(line["rows"] for line in _log(running.log) if line.get("event") == "calls_failed") == 3
    assert {line["process"] for line in found} == {"observer"}
    assert found[0]["reason"] == "NOT_READY"
    assert "has not loaded this model yet" in found[0]["example"]


def _log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
