"""The error table: what a caller sees of everything that can go wrong, over both faces, as the catalogue has it."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from control.v1 import data_plane_pb2
from gateway.contract.errors import CATALOGUE, Code, Reason
from gateway.contract.row import RowCodec
from gateway.features.writer import Batch, OnlineWriter
from tests.gateway import zoo
from tests.gateway.follower import Wire
from tests.gateway.gateways import Gateway
from tests.gateway.gateways import gateway as started
from tests.gateway.mistakes import MISTAKES
from tests.gateway.requests import INFERENCE, SCORING, Mistake, batch, infer, keys, score
from tests.gateway.test_scoring import error_info
from tests.support import until

LINES: Final = [(line, method) for line in MISTAKES for method in line.calls]
FACES: Final = {
    "ScoringService": (f"{SCORING}Score", score("churn", "S1").SerializeToString()),
    "GRPCInferenceService": (f"{INFERENCE}ModelInfer", infer("churn", keys("S1")).SerializeToString()),
}
"""A good call of each face."""
FULL: Final = {
    "ScoringService": (f"{SCORING}ScoreBatch", batch("churn", ["S1"] * 256).SerializeToString()),
    "GRPCInferenceService": (f"{INFERENCE}ModelInfer", infer("churn", keys(*["S1"] * 256)).SerializeToString()),
}
"""As many rows as a call may have."""
ELSEWHERE: Final = {
    Reason.OVERLOADED,
    Reason.DEADLINE_EXPIRED,
    Reason.DRAINING,
    Reason.INTERNAL,
}
"""What does not come of the request itself: load, time, and faults of ours, which no caller can cause."""


def prepared(data: Path) -> Path:
    """The zoo, with a stored row that is damaged, a model whose file never came, and one that is stopped."""
    data.mkdir()
    zoo.place(data)
    one = {"minutes": np.ones(1), "calls": np.ones(1), "state": np.zeros(1), "roaming": np.ones(1)}
    row = bytearray(RowCodec(zoo.USAGE).encode([zoo.NOW_NS], [zoo.NOW_NS], one, {}))
    row[-1] ^= 1
    writer = OnlineWriter(data / "features", 1 << 26)
    writer.apply(Batch(3, zoo.USAGE.digest(), zoo.USAGE.canonical(), {}, ["damaged"], bytes(row)), zoo.HISTORY)
    writer.close()
    table = data_plane_pb2.RouteTable.FromString((data / "routes.pb").read_bytes())
    _add(table, "waiting")
    _add(table, "stopped").stopped_because = "ana stopped it: wrong scores"
    (data / "routes.pb").write_bytes(table.SerializeToString())
    return data


def _add(table: data_plane_pb2.RouteTable, name: str) -> data_plane_pb2.ModelRoute:
    """Another model like churn, whose file is not there."""
    table.models.append(data_plane_pb2.ModelRoute(model=name, champion=table.models[0].champion))
    champion = table.models[-1].champion
    champion.digest = champion.model_sha256 = "0" * 64
    champion.document_json = champion.document_json.replace('"churn"', f'"{name}"')
    return table.models[-1]


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    data = prepared(tmp_path_factory.mktemp("errors") / "gateway")
    with started(data, "--max-message-bytes=65536") as running:
        until(lambda: len(running.board("worker-0").get("versions", ())) == 6)
        with running.channel() as opened:
            until(lambda: not failure(opened, *FACES["ScoringService"]))
            yield opened


@pytest.fixture(scope="module")
def pressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    data = tmp_path_factory.mktemp("pressed") / "gateway"
    data.mkdir()
    zoo.place(data)
    with started(data, "--max-in-flight=2", "--default-deadline-ms=1") as running:
        until(running.ready)
        yield running


def failure(channel: grpc.Channel, method: str, request: bytes, timeout: float | None = 20) -> Any:
    """How a call fails; None where it does not."""
    try:
        channel.unary_unary(method)(request, timeout=timeout)
    except grpc.RpcError as error:
        return error
    return None


def assert_told(error: Any, reason: Reason) -> None:
    """Holds a failed call against the catalogue: its status, its reason and its domain."""
    info = error_info(error)
    assert (info.reason, info.domain, error.code().value[0]) == (reason, "interlock", CATALOGUE[reason].code)


@pytest.mark.parametrize(
    ("line", "method"), LINES, ids=[f"{line.name}, {method.split('/')[-1]}" for line, method in LINES]
)
def test_a_mistake_is_told_alike_over_both_faces(channel: grpc.Channel, line: Mistake, method: str) -> None:
    """The status is the catalogue's, the reason is in ErrorInfo, and the message says what was wrong."""
    error = failure(channel, method, line.calls[method])
    assert error is not None
    assert_told(error, line.reason)
    assert line.says in error.details()


def test_every_mistake_that_a_caller_can_make_is_in_the_table_for_both_faces() -> None:
    """Reason by reason, as the catalogue has those of scoring."""
    mistakes = {*takewhile(lambda reason: reason is not Reason.UNAUTHENTICATED, Reason)} - ELSEWHERE
    assert {line.reason for line in MISTAKES} == mistakes
    for reason in mistakes - {Reason.LOADING_GOVERNED}:
        methods = {method for line, method in LINES if line.reason is reason}
        assert any(method.startswith(SCORING) for method in methods), reason
        assert any(method.startswith(INFERENCE) for method in methods), reason


@pytest.mark.parametrize("face", FACES)
def test_calls_beyond_the_limit_are_refused_with_a_hint(pressed: Gateway, face: str) -> None:
    """At once, never as UNAVAILABLE; when to come back is told to programs and to gRPC; the others are answered."""
    method, request = FACES[face]
    before = pressed.board("worker-0")["overloaded"]
    answered, refused = [], []

    def flood() -> bool:
        with pressed.channel() as channel:
            for call in [channel.unary_unary(method).future(request, timeout=30) for _ in range(64)]:
                (refused if call.exception() else answered).append(call)
        return bool(answered and refused)

    until(flood, 60)
    for call in refused:
        assert_told(call, Reason.OVERLOADED)
        assert error_info(call).metadata["retry_after_ms"] == "50"
        assert dict(call.trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    until(lambda: pressed.board("worker-0")["overloaded"] == before + len(refused))


@pytest.mark.parametrize("face", FULL)
def test_a_deadline_that_passes_before_the_turn_comes_is_told(pressed: Gateway, face: str) -> None:
    """The call has none of its own, so that the caller is still there to hear; the gateway's is a millisecond."""
    with pressed.channel() as channel:
        error = until(lambda: failure(channel, *FULL[face], timeout=None))
    assert_told(error, Reason.DEADLINE_EXPIRED)


@pytest.mark.parametrize("face", FULL)
def test_a_deadline_of_the_callers_own_is_told_to_who_still_listens(pressed: Gateway, face: str) -> None:
    """On plain HTTP/2, since a gRPC library gives up first; where the gateway's own does, there is no reason."""

    def told() -> bool:
        wire = Wire(pressed.supervisor()["address"], *FULL[face])
        wire.headers.append((b"grpc-timeout", b"1m"))
        with wire.socket:
            wire.send()
            while not (ends := wire.receive()):
                assert not wire.closed
        assert ends in (["OK"], [f"status {Code.DEADLINE_EXCEEDED}"])
        return _reason(wire) is Reason.DEADLINE_EXPIRED

    until(told)


@pytest.mark.parametrize("face", FACES)
def test_a_drained_gateway_says_so_to_who_stays(tmp_path: Path, face: str) -> None:
    """UNAVAILABLE, to a client that hears no GOAWAY and calls on; whoever follows it sees no error at all."""
    data = tmp_path / "gateway"
    data.mkdir()
    zoo.place(data)
    with started(data, "--drain-ms=100") as running:
        until(running.ready)
        wire = Wire(running.supervisor()["address"], *FACES[face], deaf=True)
        with wire.socket:
            for _ in range(16):
                wire.send()
            running.process.send_signal(signal.SIGTERM)
            while (reason := _reason(wire)) is None:
                assert not wire.closed
                for end in wire.receive():
                    assert end in ("OK", f"status {Code.UNAVAILABLE}")
                    wire.send()
    assert reason is Reason.DRAINING


def _reason(wire: Wire) -> Reason | None:
    """Why its last call that failed did."""
    details = wire.trailers.get(b"grpc-status-details-bin")
    if details is None:
        return None
    info = ErrorInfo()
    assert Status.FromString(base64.b64decode(details + b"==")).details[0].Unpack(info)
    return Reason(info.reason)
