"""The client when servers falter: what is repeated, under which key, and what a failure is called."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import grpc
import pytest

from control.connection import Refused, Unreachable
from control.services import ControlPlane
from control.v1 import features_pb2, governance_pb2
from control.v1.features_pb2_grpc import FeaturesServiceServicer, add_FeaturesServiceServicer_to_server
from control.v1.governance_pb2_grpc import GovernanceServiceServicer, add_GovernanceServiceServicer_to_server

SPOILED = "the server went away"


class Faltering(GovernanceServiceServicer, FeaturesServiceServicer):
    """Fails the first calls as a restarting server does, and remembers what it was asked."""

    def __init__(self, failures: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.failures = failures
        self.code = code
        self.keys: list[str] = []
        self.durable: list[int] = []

    def ApproveVersion(self, request: Any, context: Any) -> governance_pb2.ApproveVersionResponse:  # noqa: N802
        """Approves, unless it is to fail."""
        self.keys.append(request.idempotency_key)
        self._falter(context)
        return governance_pb2.ApproveVersionResponse(
            approval=governance_pb2.Approval(model=request.model, version=request.version)
        )

    def Materialize(self, request_iterator: Any, context: Any) -> Iterator[features_pb2.MaterializeResponse]:  # noqa: N802
        """Keeps chunks, and fails after the second one."""
        self.keys.append(next(request_iterator).header.idempotency_key)
        for index, message in enumerate(request_iterator):
            if index == len(self.durable):
                self.durable.append(len(message.rows.keys))
            yield features_pb2.MaterializeResponse(sequence=index + 1, rows=self.durable[index])
            if index == 1:
                self._falter(context)

    def _falter(self, context: Any) -> None:
        if self.failures:
            self.failures -= 1
            context.abort(self.code, SPOILED)


@contextmanager
def serving(servicer: Faltering) -> Iterator[ControlPlane]:
    """A client of a real server over the servicer."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_GovernanceServiceServicer_to_server(servicer, server)
    add_FeaturesServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with ControlPlane(f"127.0.0.1:{port}", "token") as control:
            yield control
    finally:
        server.stop(None).wait()


def rows(n: int) -> features_pb2.FeatureRows:
    return features_pb2.FeatureRows(keys=[f"S{index}" for index in range(n)])


def test_a_change_is_repeated_under_one_key_while_the_server_is_away() -> None:
    """A repeated change happens once, because the server sees that it is the same one."""
    servicer = Faltering(failures=2)
    with serving(servicer) as control:
        assert control.approve("churn", 2).version == 2
    assert len(servicer.keys) == 3
    assert len(set(servicer.keys)) == 1


def test_two_changes_have_two_keys() -> None:
    """A key stands for one wish."""
    servicer = Faltering(failures=0)
    with serving(servicer) as control:
        control.approve("churn", 2)
        control.approve("churn", 2)
        control.approve("churn", 2, key="mine")
    assert len(set(servicer.keys)) == 3
    assert servicer.keys[-1] == "mine"


def test_nothing_else_than_an_absent_server_is_repeated() -> None:
    """A refusal stays one."""
    servicer = Faltering(failures=1, code=grpc.StatusCode.FAILED_PRECONDITION)
    with serving(servicer) as control, pytest.raises(Refused, match=SPOILED):
        control.approve("churn", 2)
    assert len(servicer.keys) == 1


def test_a_server_that_stays_away_is_unreachable() -> None:
    """After a few tries, in a second or two."""
    servicer = Faltering(failures=99)
    with serving(servicer) as control, pytest.raises(Unreachable) as caught:
        control.approve("churn", 2)
    assert (caught.value.reason, len(servicer.keys)) == ("CANNOT_CONNECT", 4)


def test_an_interrupted_materialization_goes_on_where_it_was() -> None:
    """The stream is sent again under its key; each chunk is answered to the caller once."""
    servicer = Faltering(failures=1)
    chunks = [rows(3), rows(2), rows(1)]
    with serving(servicer) as control:
        answers = list(control.materialize("hash", lambda: iter(chunks), 6))
    assert [answer.rows for answer in answers] == [3, 2, 1]
    assert servicer.durable == [3, 2, 1]
    assert len(servicer.keys) == 2
    assert len(set(servicer.keys)) == 1


def test_a_materialization_that_nobody_reads_on_is_cancelled() -> None:
    """Leaving the loop leaves no call behind."""
    servicer = Faltering(failures=0)
    with serving(servicer) as control:
        first = list(islice(control.materialize("hash", lambda: iter([rows(1)] * 5), 5), 1))
    assert first[0].sequence == 1
