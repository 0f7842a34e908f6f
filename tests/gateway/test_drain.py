"""Real signals under load: no call is lost of a client that repeats nothing itself and follows GOAWAY."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import grpc
import psutil
import pytest

from gateway.transport.goaway import GOAWAY
from gateway.v1 import scoring_pb2, scoring_pb2_grpc
from tests.gateway.fake_control import FakeControl
from tests.gateway.follower import Wire, follow
from tests.gateway.gateways import Gateway, gateway
from tests.gateway.tiny import MODEL, batch, table, version
from tests.support import STRESS, until

SCORE: Final = "/gateway.v1.ScoringService/Score"
REQUEST: Final = scoring_pb2.ScoreRequest(model=MODEL, entities={"subscriber": "S1"})
REPEATS_NOTHING: Final = [
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    *((f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")),
]


@pytest.fixture(scope="module")
def control() -> Iterator[FakeControl]:
    """A control plane with one model and one subscriber."""
    with FakeControl() as running:
        running.artifacts.update(version(1).artifacts())
        running.append(batch(1, ["S1"]))
        running.publish(table(7, version(1), feature_sequence=1))
        yield running


def test_workers_that_end_one_after_another_lose_no_call(control: FakeControl, tmp_path: Path) -> None:
    """New connections are the sibling's while one worker ends, and the next one's when that has started."""
    with gateway(tmp_path / "gateway", "--workers=2", control=control.address) as running:
        until(lambda: _both_serve(running))
        address = running.supervisor()["address"]
        with (
            callers([address], policy="pick_first") as grpc_ends,
            followers(address) as wire_ends,
            newcomers(address) as new_ends,
        ):
            for turn in range(20 if STRESS else 4):
                until(lambda: _both_serve(running), 60)  # one that ends often is started again later and later
                pid = running.pid(f"worker-{turn % 2}")
                os.kill(pid, signal.SIGTERM)
                until(lambda pid=pid: not psutil.pid_exists(pid))
        assert set(grpc_ends) == {"OK"}
        assert set(wire_ends) <= {"OK", "unseen"}
        assert wire_ends["OK"]
        assert set(new_ends) == {"OK"}


def test_a_rolling_restart_of_two_gateways_loses_no_call(control: FakeControl, tmp_path: Path) -> None:
    """Whole gateways end and start again, in turn, for callers who know both."""
    with (
        gateway(tmp_path / "a" / "gateway", "--workers=2", control=control.address) as first,
        gateway(tmp_path / "b" / "gateway", "--workers=2", control=control.address) as second,
    ):
        addresses = [str(running.supervisor()["address"]) for running in (first, second)]
        for running in (first, second):
            until(lambda running=running: _both_serve(running))
        with callers(addresses, "round_robin") as spread, callers(addresses, "pick_first") as first_of:
            for running, address in zip((first, second), addresses, strict=True):
                until(lambda running=running: _connected(running))
                assert running.stop() == 0
                again = Gateway(running.data, f"--address={address}", "--workers=2", control=control.address)
                running.process = again.process
                until(lambda running=running: _both_serve(running) and _connected(running))
        assert set(spread) == {"OK"}
        assert set(first_of) == {"OK"}


def test_a_draining_worker_says_so_before_it_asks_callers_to_leave(control: FakeControl, tmp_path: Path) -> None:
    """A watcher of the serving port's health hears NOT_SERVING, then GOAWAY."""
    with gateway(tmp_path / "gateway", control=control.address) as running:
        until(running.ready)
        host, _, port = running.supervisor()["address"].rpartition(":")
        watcher = Wire(f"{host}:{port}", "/grpc.health.v1.Health/Watch", b"")
        watcher.send()
        heard = b""
        with watcher.socket:
            while health_says(1) not in heard:
                heard += watcher.socket.recv(1 << 16)
            running.process.terminate()
            while GOAWAY not in heard:
                heard += watcher.socket.recv(1 << 16)
        assert heard.index(health_says(2)) < heard.index(GOAWAY)


def test_who_does_not_follow_goaway_is_served_and_then_refused(control: FakeControl, tmp_path: Path) -> None:
    """UNAVAILABLE, which says that the call may be repeated, and nothing that blames the call."""
    with gateway(tmp_path / "gateway", "--drain-ms=500", control=control.address) as running:
        until(running.ready)
        stubborn = Wire(running.supervisor()["address"], SCORE, REQUEST.SerializeToString(), deaf=True)
        ends: list[str] = []
        with stubborn.socket:
            stubborn.send()
            while not stubborn.closed and ends[-1:] != ["status 14"]:
                now = stubborn.receive()
                if now == ["OK"] and not ends:
                    running.process.terminate()
                ends += now
                if now and ends[-1] == "OK":
                    stubborn.send()
        assert Counter(ends).keys() == {"OK", "status 14"}


def test_a_stream_is_served_until_the_drain_ends_and_then_told_so(control: FakeControl, tmp_path: Path) -> None:
    """Every message has its answer but the last, which was not scored: the stream ends with DRAINING."""
    with gateway(tmp_path / "gateway", "--drain-ms=1000", control=control.address) as running:
        until(running.ready)
        answered: list[str] = []
        turns: SimpleQueue[int] = SimpleQueue()

        def messages() -> Iterator[scoring_pb2.ScoreStreamRequest]:
            while True:
                yield scoring_pb2.ScoreStreamRequest(id=str(turns.get()), row=REQUEST)

        with running.channel() as channel:
            turns.put(0)
            stream = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream(messages())

            def converse() -> None:
                for answer in stream:
                    answered.append(answer.id)
                    if len(answered) == 1:
                        running.process.terminate()
                    turns.put(len(answered))

            with pytest.raises(grpc.RpcError) as ended:
                converse()
            turns.put(-1)  # lets grpc's thread look whether the call has ended
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "this worker is ending" in str(ended.value.details())
        assert answered == [str(number) for number in range(len(answered))]


def health_says(status: int) -> bytes:
    """The message of a health answer of that status, as it is on the wire."""
    return b"\0\0\0\0\2\x08" + bytes([status])


@contextmanager
def callers(addresses: Sequence[str], policy: str, threads: int = 2) -> Iterator[Counter[str]]:
    """Threads that score by grpcio without repeating anything; afterwards, how their calls ended."""
    options = [*REPEATS_NOTHING, ("grpc.service_config", f'{{"loadBalancingConfig": [{{"{policy}": {{}}}}]}}')]
    done = threading.Event()

    def call() -> Counter[str]:
        ends: Counter[str] = Counter()
        with grpc.insecure_channel("ipv4:" + ",".join(addresses), options) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            while not done.is_set():
                try:
                    stub.Score(REQUEST, timeout=10)
                    ends["OK"] += 1
                except grpc.RpcError as error:
                    ends[f"{error.code()}: {error.details()}"] += 1
        return ends

    with _running(done, [call] * threads) as ends:
        yield ends


@contextmanager
def followers(address: str, connections: int = 2) -> Iterator[Counter[str]]:
    """Connections of our own with eight calls in flight on each; afterwards, how those ended."""
    done = threading.Event()

    def call() -> Counter[str]:
        return follow(address, SCORE, REQUEST.SerializeToString(), 8, done)

    with _running(done, [call] * connections) as ends:
        yield ends


@contextmanager
def newcomers(address: str) -> Iterator[Counter[str]]:
    """Calls each on a connection of its own, one after another; afterwards, how they ended."""
    done = threading.Event()

    def call() -> Counter[str]:
        ends: Counter[str] = Counter()
        while not done.is_set():
            wire = Wire(address, SCORE, REQUEST.SerializeToString())
            with wire.socket:
                wire.send()
                ended: list[str] = []
                while not (ended or wire.closed):
                    ended = wire.receive()
            ends.update(ended)
        return ends

    with _running(done, [call]) as ends:
        yield ends


@contextmanager
def _running(done: threading.Event, calls: Sequence[Callable[[], Counter[str]]]) -> Iterator[Counter[str]]:
    total: Counter[str] = Counter()
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            yield total
        finally:
            done.set()
    for future in futures:
        total.update(future.result())


def _both_serve(running: Gateway) -> bool:
    """Whether two workers are ready, those that run now."""
    workers = [running.board(f"worker-{index}") for index in range(2)]
    return all(worker.get("ready") and psutil.pid_exists(worker["pid"]) for worker in workers)


def _connected(running: Gateway) -> bool:
    """Whether somebody is connected to the serving port."""
    port = int(running.supervisor()["address"].rpartition(":")[2])
    connections = [c for child in running.children() for c in child.net_connections("tcp")]
    return any(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in connections)
