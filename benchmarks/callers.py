"""Callers that keep every reply: `python -m benchmarks.callers ADDRESS FILE`, until standard input ends."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks import fixture
from gateway.v1 import scoring_pb2 as pb
from gateway.v1 import scoring_pb2_grpc as rpc

CALLERS: Final = 4
"""Each with a connection of its own, so that every worker has some."""


def call(address: str, entities: int, stop: threading.Event, seen: list[tuple[Any, ...]]) -> None:
    """Calls one after the other: started, ended (monotonic ns), version and revision, or the status of a failure."""
    rng = random.Random(id(seen))
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        score = rpc.ScoringServiceStub(channel).Score
        while not stop.is_set():
            request = pb.ScoreRequest(model="churn", entities={"subscriber": fixture.key(rng.randrange(entities))})
            started = time.monotonic_ns()
            try:
                reply = score(request, timeout=5)
            except grpc.RpcError as error:
                seen.append((started, time.monotonic_ns(), 0, str(error.code())))
            else:
                seen.append((started, time.monotonic_ns(), reply.version, reply.revision))


def main(address: str, path: Path, entities: int) -> None:
    """Runs the callers until standard input ends, then writes what they saw."""
    stop, seen = threading.Event(), [[] for _ in range(CALLERS)]  # type: list[list[tuple[Any, ...]]]
    threads = [threading.Thread(target=call, args=(address, entities, stop, column)) for column in seen]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    path.write_text(json.dumps(sorted(call for column in seen for call in column)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
