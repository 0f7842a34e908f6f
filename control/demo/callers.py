"""Callers of the gateway, as a billing system is one: a channel, a key, a score. Nothing is repeated on failure."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import grpc

from gateway.v1 import scoring_pb2
from gateway.v1.scoring_pb2_grpc import ScoringServiceStub

DEADLINE_S: Final = 5.0
OPTIONS: Final = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
"""A failed call must be seen, so gRPC repeats none; each caller has a connection of its own, as separate systems do."""


class Reply(NamedTuple):
    """One call as its caller saw it; times are monotonic."""

    key: str
    began_ns: int
    ended_ns: int
    version: int = 0
    revision: int = 0
    score: float = float("nan")
    defaulted: int = 0
    challenged: bool = False
    """Whether a rollout assigned it to the version on trial, whichever version answered in the end."""
    decision: str = ""
    prediction_id: str = ""
    failure: str = ""


class Target(NamedTuple):
    """Whom callers ask for what."""

    address: str
    model: str
    entity: str


def score_each(target: Target, keys: Sequence[str]) -> list[Reply]:
    """Scores the keys one call each, one after the other."""
    with grpc.insecure_channel(target.address, OPTIONS) as channel:
        stub = ScoringServiceStub(channel)
        return [_score(stub, target, key) for key in keys]


def score_batch(target: Target, keys: Sequence[str]) -> scoring_pb2.ScoreBatchResponse:
    """Scores the keys in one call."""
    column = scoring_pb2.EntityColumn(entity=target.entity, keys=keys)
    request = scoring_pb2.ScoreBatchRequest(model=target.model, entities=[column])
    with grpc.insecure_channel(target.address, OPTIONS) as channel:
        return ScoringServiceStub(channel).ScoreBatch(request, timeout=DEADLINE_S)


class Traffic:
    """Callers that go on scoring, each from a thread and over a connection of its own, within a `with` block."""

    def __init__(self, target: Target, keys: Sequence[str], callers: int, pause_s: float) -> None:
        self._pause_s = pause_s
        self._target = target
        self._keys = keys
        self._over = threading.Event()
        starts = [index * len(keys) // callers for index in range(callers)]
        self._threads = [threading.Thread(target=self._call, args=(start,), daemon=True) for start in starts]
        self.replies: list[Reply] = []
        """In the order of their arrival; appended to while it runs."""

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * DEADLINE_S)

    def _call(self, start: int) -> None:
        with grpc.insecure_channel(self._target.address, OPTIONS) as channel:
            stub = ScoringServiceStub(channel)
            for key in itertools.islice(itertools.cycle(self._keys), start, None):
                if self._over.wait(self._pause_s):
                    return
                self.replies.append(_score(stub, self._target, key))


def _score(stub: ScoringServiceStub, target: Target, key: str) -> Reply:
    request = scoring_pb2.ScoreRequest(model=target.model, entities={target.entity: key})
    began_ns = time.monotonic_ns()
    try:
        got = stub.Score(request, timeout=DEADLINE_S)
    except grpc.RpcError as error:
        return Reply(key, began_ns, time.monotonic_ns(), failure=_said(error))
    return Reply(
        key,
        began_ns,
        time.monotonic_ns(),
        got.version,
        got.revision,
        got.score,
        got.defaulted,
        got.arm == scoring_pb2.ARM_CHALLENGER,
        got.decision,
        got.prediction_id,
    )


def _said(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else repr(error)
