"""An open loop, in a process of its own: calls leave when they are due, whether or not the former ones were answered.

A call's latency counts from when it was due, so that a server that stalls is charged with all who had to wait.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ngh2 import DataReceived, ResponseReceived, StreamClosed, StreamReset, TrailersReceived

from benchmarks.load import Client
from gateway.v1 import scoring_pb2 as pb

CONNECTIONS: Final = 8
WARM_S: Final = 1.0
"""How long it runs before it counts."""
ANSWERED_S: Final = 0.5
"""How long the last calls have to be answered."""
GRPC_HEAD: Final = 5


class Paced(NamedTuple):
    """What a run of the generator saw."""

    latencies_us: list[int]
    failed: int
    answers: dict[str, list[list[Any]]]
    """By message: the different answers that it got, as score, decision, version and arm."""


class PacedClient(Client):
    """One connection."""

    def __init__(self, address: tuple[str, int], method: str, messages: Sequence[bytes]) -> None:
        super().__init__(address, method, messages, random.Random(0))
        self._sent: dict[int, tuple[float, int]] = {}
        self._bodies: dict[int, bytes] = {}
        self.done: list[tuple[float, float, int, bytes]] = []
        """When each call was due, how long it took, which message it was, and the reply."""
        self.failed = 0

    def send_message(self, index: int, due: float) -> None:
        """Sends a call."""
        stream = self.h2.send_request(self.headers)
        self.h2.send_data(stream, self.messages[index], end_stream=True)
        self._sent[stream] = due, index
        self._bodies[stream] = b""

    def take(self) -> None:
        """Reads what has come."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.h2.receive_data(data)
        now = time.perf_counter()
        for event in self.h2.events():
            if isinstance(event, DataReceived):
                self._bodies[event.stream_id] += event.data
            elif isinstance(event, TrailersReceived | ResponseReceived):
                status = dict(event.headers).get(b"grpc-status", b"0")
                self.failed += status != b"0"
            elif isinstance(event, StreamReset):
                self.failed += 1
            elif isinstance(event, StreamClosed):
                due, index = self._sent.pop(event.stream_id)
                self.done.append((due, now - due, index, self._bodies.pop(event.stream_id)))


def run(address: str, method: str, messages: Sequence[bytes], per_s: float, seconds: float, seed: int) -> Paced:
    """Sends calls at times of a Poisson process."""
    host, _, port = address.rpartition(":")
    clients = [PacedClient((host, int(port)), method, messages) for _ in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.flush()
    began = time.perf_counter()
    for number, (due, index) in enumerate(_schedule(random.Random(seed), len(messages), per_s, seconds + WARM_S)):
        _wait(selector, began + due)
        client = clients[number % CONNECTIONS]
        client.send_message(index, began + due)
        client.flush()
    _wait(selector, time.perf_counter() + ANSWERED_S)
    done = [call for client in clients for call in client.done if call[0] >= began + WARM_S]
    answers: dict[str, list[list[Any]]] = {}
    for _, _, index, body in done:
        if not body:  # one that failed
            continue
        answer = _answer(body)
        known = answers.setdefault(str(index), [])
        if answer not in known:
            known.append(answer)
    return Paced([round(took * 1e6) for _, took, _, _ in done], sum(client.failed for client in clients), answers)


def _schedule(rng: random.Random, messages: int, per_s: float, seconds: float) -> Iterator[tuple[float, int]]:
    due = 0.0
    while (due := due + rng.expovariate(per_s)) < seconds:
        yield due, rng.randrange(messages)


def _wait(selector: selectors.BaseSelector, until: float) -> None:
    """Reads what comes until a time."""
    while (left := until - time.perf_counter()) > 0:
        for key, _ in selector.select(left):
            client: PacedClient = key.data
            client.take()
            client.flush()


def _answer(body: bytes) -> list[Any]:
    reply = pb.ScoreResponse.FromString(body[GRPC_HEAD:])
    return [reply.score, reply.decision, reply.version, reply.arm]


def main() -> None:
    """Reads what to do from standard input as JSON (messages in hexadecimal), writes what it saw as JSON."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    messages = [bytes.fromhex(line) for line in Path(asked.pop("messages")).read_text().split()]
    json.dump(run(messages=messages, **asked)._asdict(), sys.stdout)


if __name__ == "__main__":
    main()
