"""What became of the subscribers, told to the gateway as it becomes known: here at once, from the data set."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final

import grpc

from control.demo.callers import DEADLINE_S, OPTIONS, Reply
from gateway.v1 import scoring_pb2
from gateway.v1.scoring_pb2_grpc import ScoringServiceStub

LOOK_S: Final = 0.2
AT_ONCE: Final = 256
"""Outcomes that a call takes."""


class Outcomes:
    """Tells, within a `with` block, the outcome of every prediction.

    Of every one: outcomes of the one version and not of the other would be no comparison.
    """

    def __init__(self, address: str, replies: Sequence[Reply], truth: Mapping[str, int]) -> None:
        self._address = address
        self._replies = replies
        self._read = len(replies)
        self._truth = truth
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self.recorded = 0
        self.problems: list[str] = []

    def __enter__(self) -> Outcomes:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(2 * DEADLINE_S)

    def _tell(self) -> None:
        with grpc.insecure_channel(self._address, OPTIONS) as channel:
            stub = ScoringServiceStub(channel)
            while not self._over.wait(LOOK_S):
                fresh = list(self._fresh())
                for start in range(0, len(fresh), AT_ONCE):
                    self._record(stub, fresh[start : start + AT_ONCE])

    def _record(self, stub: ScoringServiceStub, outcomes: Sequence[scoring_pb2.Outcome]) -> None:
        try:
            got = stub.RecordOutcomes(scoring_pb2.RecordOutcomesRequest(outcomes=outcomes), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            self.problems.append(repr(error))
        else:
            self.recorded += got.recorded
            self.problems += [error.message for error in got.errors]

    def _fresh(self) -> Iterator[scoring_pb2.Outcome]:
        arrived = self._replies[self._read :]
        self._read += len(arrived)
        for reply in arrived:
            if not reply.failure:
                yield scoring_pb2.Outcome(
                    id=uuid.uuid4().hex,
                    prediction_id=reply.prediction_id,
                    event_time_ns=time.time_ns(),
                    number=self._truth[reply.key],
                )
