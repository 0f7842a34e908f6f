"""The whole gateway: it starts from what it has, outlives the death of any of its processes, and ends in order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.board import read_board
from gateway.children import LONGEST_DELAY_NS, LOOP, Child, delay_ns
from gateway.config import Config
from gateway.journal import JournalWriter
from gateway.leftovers import remove_leftovers
from gateway.ports import reserve
from gateway.v1 import admin_pb2, admin_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from tests.gateway.fake_control import FakeControl
from tests.gateway.gateways import BEARER, Gateway, gateway
from tests.gateway.tiny import MODEL, batch, table, version
from tests.support import until


@pytest.fixture(scope="module")
def control() -> Iterator[FakeControl]:
    """A control plane with one model and two subscribers."""
    with FakeControl() as running:
        running.artifacts.update(version(1).artifacts())
        running.append(batch(1, ["S1", "S2"]))
        running.publish(table(7, version(1), feature_sequence=1))
        yield running


@pytest.fixture(scope="module")
def shared(control: FakeControl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of two workers for tests that leave it as it was."""
    directory = tmp_path_factory.mktemp("shared")
    with gateway(directory / "gateway", "--workers=2", control=control.address) as running:
        until(lambda: running.ready() and len([w for w in running.status().workers if w.ready]) == 2)
        yield running


@pytest.fixture(scope="module")
def stopped(control: FakeControl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a gateway that served once and was stopped."""
    directory = tmp_path_factory.mktemp("stopped")
    with gateway(directory / "gateway", control=control.address) as running:
        until(running.ready)
        assert running.stop() == 0
    return directory / "gateway"


@pytest.fixture
def known(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that directory."""
    return shutil.copytree(stopped, tmp_path / "gateway")


def ends(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that ends by itself."""
    return process.wait(30)


def test_a_gateway_scores_and_says_what_it_is(shared: Gateway) -> None:
    """From the control plane's table, artifacts and features to a score, through every process."""
    assert shared.score("S2").score == 11.0
    until(lambda: shared.status().connected)
    status = shared.status()
    assert (status.revision, status.feature_sequence) == (7, 1)
    assert [worker.index for worker in status.workers] == [0, 1]
    assert all(worker.ready and not worker.problems for worker in status.workers)
    assert status.address == shared.supervisor()["address"]
    assert len(status.gateway_id) == 16


def test_both_ports_say_whether_calls_are_taken(shared: Gateway) -> None:
    """For the whole server and for the service."""
    for port in ("address", "admin_address"):
        for service in ("", "gateway.v1.ScoringService"):
            assert shared.health(port, service) == "SERVING"


def test_the_metrics_count_what_was_scored(shared: Gateway) -> None:
    """Through the journal, the observer and its board."""
    shared.score()
    url = f"http://{shared.supervisor()['metrics_address']}/metrics"
    counted = 'interlock_rows_total{arm="champion",model="minutes",result="ok",version="1"}'
    until(lambda: counted in urllib.request.urlopen(url, timeout=10).read().decode())


def test_stored_features_can_be_read(shared: Gateway) -> None:
    """As text, with their view and times; an unknown key has no rows."""
    with shared.channel("admin_address") as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        request = admin_pb2.GetFeaturesRequest(entity="subscriber", key="S1")
        found = stub.GetFeatures(request, metadata=BEARER, timeout=10)
        nobody = stub.GetFeatures(
            admin_pb2.GetFeaturesRequest(entity="subscriber", key="?"), metadata=BEARER, timeout=10
        )
    (row,) = found.rows
    assert (row.view, row.event_time_ns, found.feature_sequence) == ("usage", 1_000, 1)
    assert {feature.name: feature.value for feature in row.features} == {"minutes": "10.0", "batch": "1"}
    assert list(nobody.rows) == []


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "Bearer "),)])
def test_administration_needs_the_token(shared: Gateway, metadata: tuple[tuple[str, str], ...]) -> None:
    """The refusal carries the catalogue's reason."""
    with shared.channel("admin_address") as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        for method, request in (
            (stub.GetStatus, admin_pb2.GetStatusRequest()),
            (stub.GetFeatures, admin_pb2.GetFeaturesRequest(entity="subscriber", key="S1")),
            (stub.Drain, admin_pb2.DrainRequest()),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                method(request, metadata=metadata, timeout=10)
            assert reason(raised.value) == ("UNAUTHENTICATED", "UNAUTHENTICATED")


def test_a_wrong_question_to_the_admin_port_is_named(shared: Gateway) -> None:
    """An argument that is missing is the caller's fault."""
    request = admin_pb2.GetFeaturesRequest(entity="subscriber")
    with shared.channel("admin_address") as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.GetFeatures(request, metadata=BEARER, timeout=10)
    assert reason(raised.value) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID")


def refused(call: Callable[[], object]) -> str:
    """The name of the status by which a call is refused; empty where it is answered."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]  # the stubs split RpcError from Call
    return ""


def reason(error: grpc.RpcError) -> tuple[str, str]:
    """The status and the reason that an error carries."""
    assert isinstance(error, grpc.Call)
    details = next(value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin")
    info = ErrorInfo()
    assert Status.FromString(details).details[0].Unpack(info)  # type: ignore[arg-type]  # a -bin value is bytes
    return error.code().name, info.reason


def test_a_gateway_without_a_control_plane_makes_its_own_token(tmp_path: Path) -> None:
    """Only its operator can read it."""
    command = [sys.executable, "-m", "gateway", f"--data={tmp_path}", "--workers=1", "--journal-bytes=8388608"]
    ports = [f"--{port}=127.0.0.1:0" for port in ("address", "admin-address", "metrics-address")]
    process = subprocess.Popen([*command, *ports], stderr=subprocess.DEVNULL)
    try:
        address = until(lambda: read_board(tmp_path / "run" / "supervisor.board"))["admin_address"]
        token = (tmp_path / "admin.token").read_text()
        assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600
        with grpc.insecure_channel(address) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            metadata = (("authorization", f"Bearer {token}"),)
            assert not stub.GetStatus(admin_pb2.GetStatusRequest(), metadata=metadata, timeout=10).connected
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_a_second_gateway_on_the_directory_is_refused(shared: Gateway) -> None:
    """It says who uses it, and the first goes on."""
    second = subprocess.run(shared.command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"process id {shared.process.pid} uses this directory" in second.stderr
    assert shared.ready()


def test_a_killed_worker_costs_no_more_than_its_calls(shared: Gateway) -> None:
    """Callers that repeat UNAVAILABLE notice nothing, and it is back soon."""
    failures: list[str] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            codes = {refused(shared.score) for _ in range(3)}  # each on a connection of its own
            if "" not in codes or codes - {"", "UNAVAILABLE"}:
                failures.append(str(codes))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    killed = shared.pid("worker-1")
    psutil.Process(killed).kill()
    until(lambda: shared.pid("worker-1") not in (0, killed))
    until(lambda: all(worker.ready for worker in shared.status().workers))
    stop.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert next(child for child in shared.supervisor()["children"] if child["role"] == "worker-1")["restarts"] == 1


def test_a_killed_materializer_goes_on_where_it_was(shared: Gateway, control: FakeControl) -> None:
    """Batches appended meanwhile arrive, and callers are answered throughout."""
    psutil.Process(shared.pid("materializer")).kill()
    control.append(batch(len(control.batches) + 1, ["S3"], event_ns=2_000, minutes=20.0))
    assert shared.score("S1").score == 11.0
    until(lambda: shared.status().feature_sequence == len(control.batches))
    assert shared.score("S3").score == 21.0


def test_the_last_known_good_table_is_served_without_a_control_plane(known: Path) -> None:
    """Nobody answers at the control plane's address."""
    with gateway(known, control="127.0.0.1:1") as running:
        until(running.ready)
        assert running.score("S1").score == 11.0
        status = running.status()
        assert (status.connected, status.revision) == (False, 7)
        until(lambda: any("the control plane" in problem for problem in running.board("observer").get("problems", ())))
    with gateway(known) as running:
        until(running.ready)
        assert running.score("S1").revision == 7


def test_a_gateway_that_knows_nothing_waits_without_crashing(tmp_path: Path) -> None:
    """Not ready, not ended, and it says so."""
    with gateway(tmp_path / "gateway", control="127.0.0.1:1") as running:
        until(lambda: running.board("worker-0"))
        until(lambda: running.board("observer").get("problems"))
        assert not running.ready()
        assert {child["restarts"] for child in running.supervisor()["children"]} == {0}


def test_a_signal_drains_and_ends_everything(control: FakeControl, tmp_path: Path) -> None:
    """Calls are answered or refused as safe to repeat; a watcher of the admin port's health hears it first."""
    with gateway(tmp_path / "gateway", control=control.address) as running:
        until(running.ready)
        children = running.children()
        heard: list[int] = []
        codes: list[str] = []

        def watch() -> None:
            with running.channel("admin_address") as channel:
                request = health_pb2.HealthCheckRequest(service="gateway.v1.ScoringService")
                try:
                    heard.extend(answer.status for answer in health_pb2_grpc.HealthStub(channel).Watch(request))
                except grpc.RpcError:
                    return

        def call(channel: grpc.Channel) -> None:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            request = scoring_pb2.ScoreRequest(model=MODEL, entities={"subscriber": "S1"})
            while not codes:
                if code := refused(lambda: stub.Score(request, timeout=10)):
                    codes.append(code)

        with running.channel() as channel:
            threads = [threading.Thread(target=watch), threading.Thread(target=call, args=(channel,))]
            for thread in threads:
                thread.start()
            until(lambda: heard)
            assert running.stop() == 0
            for thread in threads:
                thread.join(20)
        serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert tuple(heard[:2]) == serving
        assert codes == ["UNAVAILABLE"]
        assert not any(child.is_running() for child in children)
        assert sorted(path.name for path in (running.data / "run").iterdir()) == [
            "observer-beat.board",
            "observer.board",
        ]


def test_the_admin_port_drains_too(known: Path) -> None:
    """As a signal does."""
    with gateway(known) as running:
        until(running.ready)
        with running.channel("admin_address") as channel:
            admin_pb2_grpc.AdminServiceStub(channel).Drain(admin_pb2.DrainRequest(), metadata=BEARER, timeout=10)
        assert ends(running.process) == 0


def test_a_second_signal_ends_what_will_not_end(known: Path) -> None:
    """A worker that is stopped cannot drain, however long it may."""
    with gateway(known, "--drain-ms=600000") as running:
        until(running.ready)
        psutil.Process(running.pid("worker-0")).suspend()
        running.process.terminate()
        until(lambda: running.board("supervisor").get("draining"))
        assert running.stop(signal.SIGINT) == 0


def test_children_leave_when_the_supervisor_is_killed(known: Path) -> None:
    """And another gateway can start on the directory at once: it waits for them."""
    with gateway(known) as running:
        until(running.ready)
        children = running.children()
        running.process.kill()
        running.process.wait()
        with gateway(known) as successor:
            until(successor.ready)
            assert successor.score("S1").score == 11.0
        until(lambda: not any(child.is_running() for child in children))


def test_a_stranger_who_listens_on_the_port_is_refused(tmp_path: Path) -> None:
    """Even one who shares his port: he would get a part of the calls."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        for key in ("address", "admin-address", "metrics-address"):
            flags = ["--address=127.0.0.1:0", "--admin-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"]
            ended = run_gateway(tmp_path, *flags, f"--{key}=127.0.0.1:{port}")
            assert ended.returncode == 2
            assert ended.stderr.startswith(f"gateway: {key.replace('-', '_')} = 127.0.0.1:{port}: ")
            assert "Traceback" not in ended.stderr


def test_a_reserved_port_takes_no_connection_and_is_shared() -> None:
    """What holds the port for the workers does not listen."""
    address, holder = reserve("address", "127.0.0.1:0")
    with holder:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()


def run_gateway(tmp_path: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A gateway that must not start."""
    command = [sys.executable, "-m", "gateway", f"--data={tmp_path / 'refused'}", *flags]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=env)


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (["--workers=999"], {}, "workers = '999'"),
        (["--address=nowhere"], {}, "address = 'nowhere'"),
        (["--address=0.0.0.0:7500"], {}, "address = 0.0.0.0:7500: plaintext is refused off loopback"),
        (["--admin-address=[::]:7501"], {}, "admin_address = [::]:7501"),
        (["--metrics-address=example.com:7502"], {}, "metrics_address = example.com:7502"),
        (["--control=10.0.0.1:7400"], {}, "control = 10.0.0.1:7400"),
        ([], {"INTERLOCK_GATEWAY_DRAIN_MS": "soon"}, "drain_ms = 'soon'"),
        ([], {"INTERLOCK_CONFIG": "{toml}"}, "wrokers = 3"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    tmp_path: Path, flags: list[str], environment: dict[str, str], said: str
) -> None:
    """From a flag, the environment or the file."""
    (tmp_path / "interlock.toml").write_text("[gateway]\nwrokers = 3\n")
    settings = {key: value.format(toml=tmp_path / "interlock.toml") for key, value in environment.items()}
    ended = run_gateway(tmp_path, *flags, **settings)
    assert ended.returncode == 2
    assert ended.stderr.startswith("gateway: ")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_pauses_between_starts_grow_to_a_bound() -> None:
    """The first death is followed by a start at once."""
    assert [delay_ns(deaths) for deaths in (0, 1)] == [0, 0]
    assert 0 < delay_ns(2) < delay_ns(3) < delay_ns(4)
    assert delay_ns(60) == LONGEST_DELAY_NS


def test_a_crash_loop_is_a_problem_and_no_reason_to_give_up(tmp_path: Path) -> None:
    """A child that cannot start is started again and again."""
    with (tmp_path / "lock").open("w") as lock:
        child = Child(("nonsense",), "{}", tmp_path, lock.fileno())
        until(lambda: child.tend() or child.restarts >= LOOP)  # type: ignore[func-returns-value]  # None is false
        assert "nonsense ended 3 times within a minute, the last time with exit code 2" in child.problem
        until(lambda: child.reap() or not child.pid)


def test_journals_of_former_workers_stay_until_they_take_too_much(tmp_path: Path) -> None:
    """Their readers still find the newest; the disk they take is bounded."""
    config = Config(data=tmp_path, workers=1, journal_bytes=1 << 20)
    config.run_path.mkdir()
    for index in range(4):
        JournalWriter(config.journal_path / f"worker-{index}", 400 << 10)
    (config.run_path / "worker-3.board").write_bytes(b"stale")
    remove_leftovers(config)
    left = sorted(path.name for path in config.journal_path.iterdir())
    assert left[0] == "worker-0"
    assert len(left) == 3
    assert list(config.run_path.iterdir()) == []
