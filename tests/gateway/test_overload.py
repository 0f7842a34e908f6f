"""A worker that has too many calls in flight says so, quickly and with a hint, and goes on with those it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gateway.v1 import scoring_pb2_grpc as rpc
from tests.gateway import zoo
from tests.gateway.gateways import Gateway
from tests.gateway.test_scoring import error_info, subscriber
from tests.support import until

CALLS = 64


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    data = tmp_path / "gateway"
    data.mkdir()
    zoo.place(data)
    running = Gateway(data, "--max-in-flight=2")
    until(running.ready)
    yield running
    running.process.terminate()
    assert running.process.wait(30) == 0


def test_calls_beyond_the_limit_are_refused_with_a_hint_when_to_come_back(gateway: Gateway) -> None:
    """RESOURCE_EXHAUSTED and OVERLOADED, never UNAVAILABLE, and every other call is answered."""
    answered, refused = [], []

    def flood() -> bool:
        with gateway.channel() as channel:
            futures = [
                rpc.ScoringServiceStub(channel).Score.future(subscriber("churn", f"S{i}"), timeout=30)
                for i in range(CALLS)
            ]
            for future in futures:
                (refused if future.exception() else answered).append(future)
        return bool(refused)

    until(flood, 60)
    for call in refused:
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info = error_info(call)
        assert (info.reason, info.metadata["retry_after_ms"]) == ("OVERLOADED", "50")
        assert dict(call.trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    assert answered
    until(lambda: gateway.board("worker-0")["overloaded"] == len(refused))
