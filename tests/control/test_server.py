"""The control plane as a process: how it starts, refuses to start, answers, and stops."""

from __future__ import annotations

import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from control.__main__ import STOPPING, main
from control.guard import Guard
from control.security import Role, Token, secret_hash
from control.telemetry import LOG
from control.v1 import data_plane_pb2, governance_pb2, rollout_pb2
from gateway.contract.errors import Fault, Reason
from tests.control.planes import Client, Process, client_for, key, running

SERVICE = governance_pb2.DESCRIPTOR.services_by_name["GovernanceService"]


Refuse = Callable[..., str]


@pytest.fixture
def refusal_to_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Refuse]:
    """Starts a control plane that may not start, and returns the one line with which it ends."""
    signals = {number: signal.getsignal(number) for number in STOPPING}

    def refused(data: Path, *flags: str, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main(["--data", str(data), "--address", "127.0.0.1:0", *flags]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("interlock control: ")]
        return line

    yield refused
    signal.set_wakeup_fd(-1)
    for number, before in signals.items():
        signal.signal(number, before)
    LOG.handlers.clear()
    LOG.propagate = True


@pytest.fixture(scope="module")
def running_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("process"))
    yield process
    process.end(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_serves_and_stops_cleanly(tmp_path: Path, number: int) -> None:
    """The address file is there while it listens, and the first tokens are their owner's only."""
    process = Process(tmp_path / "control")
    assert process.operator.call(
        process.operator.governance.VerifyAudit, governance_pb2.VerifyAuditRequest()
    ) == governance_pb2.VerifyAuditResponse(ok=True, entries=2, head_hash=head_of(process.data))
    for name in ("operator.token", "gateway.token"):
        assert stat.S_IMODE((process.data / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(process.data.stat().st_mode) == 0o700
    said = process.end(number)
    assert process.process.returncode == 0
    assert not (process.data / "run" / "address").exists()
    secret = (process.data / "operator.token").read_text().split("_", 2)[2]
    assert secret not in said


def head_of(data: Path) -> str:
    """The hash of the newest entry, as the file has it."""
    with sqlite3.connect(data / "store.sqlite") as raw:
        (found,) = raw.execute("SELECT hash FROM history").fetchone()
    raw.close()
    return str(found)


def test_a_watching_gateway_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Its stream ends without an error, and the process at once."""
    process = Process(tmp_path, "--drain-ms", "60000")
    gateway = Client(process.address, (tmp_path / "gateway.token").read_text())
    first = data_plane_pb2.WatchRoutesRequest(gateway_id="g1")
    done: list[bool] = []

    def reports() -> Iterator[data_plane_pb2.WatchRoutesRequest]:
        yield first
        while not done:
            signal.sigtimedwait([], 0.05)

    routes = gateway.data_plane.WatchRoutes(reports(), metadata=gateway.metadata)
    features = gateway.data_plane.WatchFeatures(
        data_plane_pb2.WatchFeaturesRequest(from_sequence=1), metadata=gateway.metadata
    )
    assert next(routes).table.revision == 0
    process.end()
    assert process.process.returncode == 0
    assert list(routes) == []
    assert list(features) == []
    done.append(True)


def test_a_second_control_plane_on_one_directory_is_refused(running_process: Process, refusal_to_start: Refuse) -> None:
    """The message names the process that has it."""
    said = refusal_to_start(running_process.data)
    assert f"another control plane (process {running_process.process.pid})" in said


def test_a_taken_port_is_refused(running_process: Process, tmp_path: Path, refusal_to_start: Refuse) -> None:
    """Two servers never share a port unnoticed."""
    assert "cannot listen there" in refusal_to_start(tmp_path, "--address", running_process.address)


def test_plaintext_off_loopback_is_refused_at_the_start(tmp_path: Path, refusal_to_start: Refuse) -> None:
    """Before anything is written."""
    assert "plaintext listening is refused" in refusal_to_start(tmp_path, "--address", "0.0.0.0:0")
    assert not (tmp_path / "store.sqlite").exists()


def test_a_wrong_setting_is_named_wherever_it_came_from(tmp_path: Path, refusal_to_start: Refuse) -> None:
    """Flag, environment or file."""
    assert "threads:" in refusal_to_start(tmp_path, "--threads", "many")
    assert "drain_ms:" in refusal_to_start(tmp_path, INTERLOCK_CONTROL_DRAIN_MS="-1")
    (tmp_path / "interlock.toml").write_text("[control]\nthreds = 3\n[gateway]\nworkers = 1\n")
    assert "threds:" in refusal_to_start(tmp_path, INTERLOCK_CONFIG=str(tmp_path / "interlock.toml"))
    (tmp_path / "interlock.toml").write_text("[control\n")
    assert "interlock.toml" in refusal_to_start(tmp_path, INTERLOCK_CONFIG=str(tmp_path / "interlock.toml"))


def test_a_store_of_a_newer_release_is_refused_at_the_start(tmp_path: Path, refusal_to_start: Refuse) -> None:
    """It is left as it is."""
    with running(tmp_path):
        pass
    raw = sqlite3.connect(tmp_path / "store.sqlite")
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    assert "newer release" in refusal_to_start(tmp_path)


def test_a_restart_keeps_the_first_tokens_and_replaces_those_that_are_no_longer_good(tmp_path: Path) -> None:
    """A revoked token's file gets a new one, a removed file too."""
    with running(tmp_path):
        operator, gateway = ((tmp_path / name).read_text() for name in ("operator.token", "gateway.token"))
    with running(tmp_path) as plane:
        assert (tmp_path / "operator.token").read_text() == operator
        client = Client(plane.address, operator)
        request = governance_pb2.RevokeTokenRequest(idempotency_key=key(), token_id=operator.split("_")[1])
        client.call(client.governance.RevokeToken, request)
        (tmp_path / "gateway.token").unlink()
    with running(tmp_path) as plane:
        assert (tmp_path / "operator.token").read_text() != operator
        assert (tmp_path / "gateway.token").read_text() != gateway
        client = Client(plane.address, (tmp_path / "operator.token").read_text())
        assert client.call(client.governance.VerifyAudit, governance_pb2.VerifyAuditRequest()).ok


def test_watching_gateways_take_no_thread_from_other_calls(tmp_path: Path) -> None:
    """One thread for calls is enough for any number of streams."""
    with running(tmp_path, threads=1) as plane:
        gateway = Client(plane.address, (tmp_path / "gateway.token").read_text())
        request = data_plane_pb2.WatchFeaturesRequest(from_sequence=1)
        streams = [gateway.data_plane.WatchFeatures(request, metadata=gateway.metadata) for _ in range(8)]
        mia = client_for(plane, "mia", Role.ML_ENGINEER)
        assert mia.call(mia.rollout.GetStatus, rollout_pb2.GetStatusRequest()).revision == 0
        for stream in streams:
            stream.cancel()


def test_a_message_that_is_too_large_is_refused_without_harm(tmp_path: Path) -> None:
    """With a reason where it is not too large by far; and the next call is answered."""
    with running(tmp_path, max_message_bytes=1 << 20) as plane:
        ben = client_for(plane, "ben", Role.APPROVER)
        request = governance_pb2.ApproveVersionRequest(idempotency_key=key(), comment="x" * (1 << 20))
        refused = ben.refused(ben.governance.ApproveVersion, request)
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
        assert "control.max_message_bytes" in refused.message
        request.comment *= 3
        with pytest.raises(grpc.RpcError) as error:
            ben.call(ben.governance.ApproveVersion, request)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ben.call(ben.governance.VerifyAudit, governance_pb2.VerifyAuditRequest()).ok


class Broken:
    """A servicer whose every method fails in a way of its own."""

    def __getattr__(self, name: str) -> Any:
        def method(request: Any, context: Any) -> Any:
            if name == "ListTokens":
                raise Fault(Reason.TOKEN_UNKNOWN, "€" * 9000, fact="x")
            raise RuntimeError("SELECT secret FROM /etc/shadow")

        return method


@contextmanager
def broken_server() -> Iterator[Client]:
    """A guarded server over it, and an operator who calls it."""
    token = Token("t1", "olga", frozenset(Role), secret_hash("ilk_t1_x"), 0, 2**62, revoked=False)
    guard = Guard(lambda _: token, lambda: 1, ThreadPoolExecutor(1), 1 << 20)
    guard.serve(SERVICE, Broken())
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((guard,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Client(f"127.0.0.1:{port}", "ilk_t1_x")
    server.stop(None).wait()


def test_an_unforeseen_error_tells_the_caller_an_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the cause under that id."""
    with broken_server() as client:
        refused = client.refused(client.governance.VerifyAudit, governance_pb2.VerifyAuditRequest())
    assert (refused.code, refused.reason) == ("INTERNAL", "INTERNAL")
    assert "secret" not in refused.message
    assert "shadow" not in refused.message
    assert refused.facts["error_id"] in refused.message


def test_a_very_long_message_still_reaches_the_caller() -> None:
    """It is cut where trailers would grow too large for clients."""
    with broken_server() as client:
        refused = client.refused(client.governance.ListTokens, governance_pb2.ListTokensRequest())
    assert (refused.code, refused.reason, refused.facts) == ("NOT_FOUND", "TOKEN_UNKNOWN", {"fact": "x"})
    assert refused.message.endswith("…")
