"""What callers of RecordOutcomes see: a real gateway, its disk, and what is on it when a worker is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from gateway.outcome_reader import OutcomeReader
from gateway.record import blake2b
from gateway.v1 import outcome_log_pb2 as log_pb
from gateway.v1 import scoring_pb2 as pb
from gateway.v1 import scoring_pb2_grpc as rpc
from tests.gateway import zoo
from tests.gateway.gateways import Gateway
from tests.gateway.gateways import gateway as running_gateway
from tests.support import STRESS, until

KILLS = 24 if STRESS else 6
PREDICTION = "0123456789abcdef" + "00000000002a"
SLOW_DISK = r"""
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int fd) {
  const char *hang = getenv("TEST_DISK_HANGS"), *fail = getenv("TEST_DISK_FAILS");
  while (hang && access(hang, F_OK) == 0) usleep(1000);
  if (fail && access(fail, F_OK) == 0) { errno = EIO; return -1; }
  return syscall(SYS_fdatasync, fd);
}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    data = tmp_path_factory.mktemp("outcomes") / "gateway"
    data.mkdir()
    zoo.place(data)
    running = Gateway(data, "--max-message-bytes=65536")
    until(running.ready)
    yield running
    running.process.terminate()
    assert running.process.wait(30) == 0


@pytest.fixture(scope="module")
def scoring(gateway: Gateway) -> Iterator[Any]:
    with gateway.channel() as opened:
        yield rpc.ScoringServiceStub(opened)


def outcome(name: str, **more: Any) -> pb.Outcome:
    """A good row: a label for a prediction."""
    filled: dict[str, Any] = {"prediction_id": PREDICTION, "event_time_ns": time.time_ns(), "number": 1.0} | more
    return pb.Outcome(id=name, **filled)


def kept(data: Path) -> list[log_pb.OutcomeRecord]:
    """What lies on the gateway's disk."""
    return [log_pb.OutcomeRecord.FromString(raw) for raw in OutcomeReader(data / "outcomes").poll()]


def reason(error: grpc.RpcError) -> str:
    """The reason that the error carries."""
    details = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    info = ErrorInfo()
    assert Status.FromString(details).details[0].Unpack(info)
    return str(info.reason)


def test_an_outcome_is_on_disk_when_it_is_answered(gateway: Gateway, scoring: Any) -> None:
    """With its label and its KPIs, and when the gateway took it."""
    before_ns = time.time_ns()
    sent = outcome("on-disk", kpis={"revenue": 12.5})
    reply = scoring.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=[sent]), timeout=10)
    assert (reply.recorded, list(reply.errors)) == (1, [])
    (found,) = (one for one in kept(gateway.data) if one.outcome.id == "on-disk")
    assert found.outcome == sent
    assert before_ns <= found.recorded_ns <= time.time_ns()


def test_the_gateway_keeps_a_hash_of_an_entity_key_and_not_the_key(gateway: Gateway, scoring: Any) -> None:
    """It is the hash that the journal has, so that the two can be joined."""
    row = outcome("by-entity", prediction_id="", model="churn", entities={"subscriber": "S0012345"}, text="left")
    assert scoring.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=[row]), timeout=10).recorded == 1
    (found,) = (one for one in kept(gateway.data) if one.outcome.id == "by-entity")
    expected = int.from_bytes(blake2b(b"S0012345", digest_size=8).digest(), "little")
    assert dict(found.entity_hashes) == {"subscriber": expected}
    assert not any(
        b"S0012345" in path.read_bytes() for path in (gateway.data / "outcomes").rglob("*") if path.is_file()
    )


BAD = {
    "no id": (outcome(""), "ARGUMENT_INVALID", "`id`"),
    "a long id": (outcome("x" * 129), "ARGUMENT_INVALID", "`id`"),
    "no time": (outcome("a", event_time_ns=0), "ARGUMENT_INVALID", "`event_time_ns`"),
    "a time in another unit": (outcome("a", event_time_ns=2**62), "ARGUMENT_INVALID", "`event_time_ns`"),
    "no prediction": (outcome("a", prediction_id=""), "ARGUMENT_INVALID", "`prediction_id`"),
    "a strange prediction": (outcome("a", prediction_id="no such"), "ARGUMENT_INVALID", "`prediction_id`"),
    "two predictions": (outcome("a", model="churn"), "ARGUMENT_INVALID", "one or the other"),
    "an entity alone": (outcome("a", prediction_id="", entities={"subscriber": "S1"}), "ARGUMENT_INVALID", "model"),
    "another entity": (
        outcome("a", prediction_id="", model="churn", entities={"offer": "O1"}),
        "ENTITY_MISMATCH",
        "subscriber",
    ),
    "an entity of a model without one": (
        outcome("a", prediction_id="", model="fraud", entities={"subscriber": "S1"}),
        "ENTITY_MISMATCH",
        "prediction_id",
    ),
    "an empty key": (
        outcome("a", prediction_id="", model="churn", entities={"subscriber": ""}),
        "ARGUMENT_INVALID",
        "key",
    ),
    "a long key": (
        outcome("a", prediction_id="", model="churn", entities={"subscriber": "ü" * 129}),
        "ARGUMENT_INVALID",
        "258 bytes",
    ),
    "no result": (
        pb.Outcome(id="a", prediction_id=PREDICTION, event_time_ns=1),
        "ARGUMENT_INVALID",
        "neither a label nor a KPI",
    ),
    "NaN": (outcome("a", number=float("nan")), "ARGUMENT_INVALID", "`number`"),
    "an empty label": (outcome("a", text=""), "ARGUMENT_INVALID", "`text`"),
    "an infinite KPI": (outcome("a", kpis={"revenue": float("inf")}), "ARGUMENT_INVALID", "revenue"),
    "a KPI without a name": (outcome("a", kpis={"": 1.0}), "ARGUMENT_INVALID", "`kpis`"),
    "many KPIs": (outcome("a", kpis={f"k{n}": 1.0 for n in range(33)}), "ARGUMENT_INVALID", "`kpis`"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_row_fails_alone_and_says_why(gateway: Gateway, scoring: Any, what: str) -> None:
    """The good ones around it are recorded."""
    bad, expected, words = BAD[what]
    names = [f"{what} 0", f"{what} 2"]
    rows = [outcome(names[0]), bad, outcome(names[1])]
    reply = scoring.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=rows), timeout=10)
    assert reply.recorded == 2
    (error,) = reply.errors
    assert (error.row, error.reason, error.code) == (1, expected, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert words in error.message
    assert [one.outcome.id for one in kept(gateway.data) if one.outcome.id.startswith(f"{what} ")] == names


def test_a_call_that_is_wrong_as_a_whole_is_refused(gateway: Gateway, scoring: Any) -> None:
    """No row, too many rows, too many bytes, and bytes that are something else."""
    many = [outcome(f"all {n}") for n in range(257)]
    large = [outcome(f"all {n}", kpis={f"a_long_name_{k}" * 3: 1.0 for k in range(32)}) for n in range(200)]
    calls = {"BATCH_SIZE": ([], many), "MESSAGE_TOO_LARGE": (large,)}
    for expected, requests in calls.items():
        for rows in requests:
            with pytest.raises(grpc.RpcError) as caught:
                scoring.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=rows), timeout=10)
            assert reason(caught.value) == expected
    with gateway.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/gateway.v1.ScoringService/RecordOutcomes")(b"\xff\xff", timeout=10)
    assert reason(caught.value) == "MALFORMED_REQUEST"
    assert not any(one.outcome.id.startswith("all ") for one in kept(gateway.data))


@pytest.fixture(scope="module")
def slow_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes fdatasync hang or fail while a file says so."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler, to make the disk slow")
    directory = tmp_path_factory.mktemp("slow")
    source, library = directory / "slow.c", directory / "slow.so"
    source.write_text(SLOW_DISK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.fixture
def on_slow_disk(tmp_path: Path, slow_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A gateway whose disk hangs or fails while `hangs` or `fails` lies beside its data."""
    monkeypatch.setenv("LD_PRELOAD", str(slow_disk))
    monkeypatch.setenv("TEST_DISK_HANGS", str(tmp_path / "hangs"))
    monkeypatch.setenv("TEST_DISK_FAILS", str(tmp_path / "fails"))
    data = tmp_path / "gateway"
    data.mkdir()
    zoo.place(data)
    with running_gateway(data) as running:
        until(running.ready)
        yield running


def test_scores_are_answered_while_the_disk_hangs_and_outcomes_only_after(on_slow_disk: Gateway) -> None:
    """Every call that waits is answered by the next fsync; beyond a number of them, callers are told to come back."""
    hangs = on_slow_disk.data.parent / "hangs"
    with on_slow_disk.channel() as channel:
        stub = rpc.ScoringServiceStub(channel)
        stub.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=[outcome("before")]), timeout=10)
        hangs.touch()
        waiting = [
            stub.RecordOutcomes.future(pb.RecordOutcomesRequest(outcomes=[outcome(f"waiting {n}")]), timeout=60)
            for n in range(64)
        ]
        for number in range(200):
            request = pb.ScoreRequest(model="churn", entities={"subscriber": f"S{number}"})
            assert stub.Score(request, timeout=10).version == 3
        with pytest.raises(grpc.RpcError) as caught:
            until(lambda: stub.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=[outcome("one too many")]), timeout=5))
        assert reason(caught.value) == "OVERLOADED"
        assert not any(call.done() for call in waiting)
        hangs.unlink()
        assert [call.result().recorded for call in waiting] == [1] * 64
    names = {one.outcome.id for one in kept(on_slow_disk.data)}
    assert names == {"before", *(f"waiting {n}" for n in range(64))}


def test_a_disk_that_fails_refuses_outcomes_says_so_and_leaves_scores_alone(on_slow_disk: Gateway) -> None:
    """Nothing is acknowledged meanwhile; the same call is good once the disk is."""
    fails = on_slow_disk.data.parent / "fails"
    with on_slow_disk.channel() as channel:
        stub = rpc.ScoringServiceStub(channel)
        stub.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=[outcome("before")]), timeout=10)
        fails.touch()
        again = pb.RecordOutcomesRequest(outcomes=[outcome("again")])
        with pytest.raises(grpc.RpcError) as caught:
            stub.RecordOutcomes(again, timeout=10)
        assert (caught.value.code(), reason(caught.value)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "OUTCOMES_NOT_KEPT",
        )
        until(lambda: any("outcomes cannot be kept" in text for text in on_slow_disk.board("worker-0")["problems"]))
        assert stub.Score(pb.ScoreRequest(model="churn", entities={"subscriber": "S1"}), timeout=10).version == 3
        assert [one.outcome.id for one in kept(on_slow_disk.data)] == ["before"]
        fails.unlink()
        assert stub.RecordOutcomes(again, timeout=10).recorded == 1
        until(lambda: not on_slow_disk.board("worker-0")["problems"])
    assert [one.outcome.id for one in kept(on_slow_disk.data)] == ["before", "again"]


class Reporter:
    """A caller that reports outcomes without pause, repeats what was not answered, and knows what was."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.acknowledged: list[str] = []
        self.codes: set[grpc.StatusCode] = set()
        self._gateway, self._name = gateway, name
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._report)
        self._thread.start()

    def end(self) -> None:
        """Stops when the last call is answered."""
        self._end.set()
        self._thread.join()

    def _report(self) -> None:
        number = 0
        # A client that tries again soon: by default it waits longer each time, at last two minutes.
        patience = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)]
        own = [("grpc.use_local_subchannel_pool", 1), *patience]
        with grpc.insecure_channel(self._gateway.supervisor()["address"], own) as channel:
            stub = rpc.ScoringServiceStub(channel)
            while not self._end.is_set():
                names = [f"{self._name}-{number}-{row}" for row in range(20)]
                request = pb.RecordOutcomesRequest(outcomes=[outcome(name) for name in names])
                try:
                    stub.RecordOutcomes(request, timeout=170, wait_for_ready=True)
                except grpc.RpcError as error:
                    self.codes.add(error.code())
                    continue  # with the same ids
                self.acknowledged += names
                number += 1


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_no_acknowledged_outcome_is_lost_when_workers_are_killed(tmp_path: Path) -> None:
    """Killed at any moment, again and again; the last segment's torn tail is cut by the worker that comes after."""
    with running_gateway(tmp_path / "gateway") as running:
        until(lambda: running.pid("worker-0"))
        reporters = [Reporter(running, f"r{n}") for n in range(3)]
        chance, killed = random.Random(7), 0
        for _ in range(KILLS):
            goal = sum(len(one.acknowledged) for one in reporters) + chance.randrange(1, 2000)
            until(lambda: sum(len(one.acknowledged) for one in reporters) >= goal, 60)  # noqa: B023 - called at once
            pid = until(lambda: running.pid("worker-0"))
            os.kill(pid, signal.SIGKILL)
            killed += 1
            until(lambda: running.pid("worker-0") not in (0, pid), 60)  # noqa: B023 - likewise
        for one in reporters:
            one.end()
        found = [one.outcome.id for one in kept(running.data)]
    acknowledged = {name for one in reporters for name in one.acknowledged}
    assert killed == KILLS
    assert {code for one in reporters for code in one.codes} <= {grpc.StatusCode.UNAVAILABLE}
    assert len(acknowledged) > 100
    assert acknowledged <= set(found)
