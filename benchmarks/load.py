"""A closed-loop load generator on libnghttp2 (`ngh2`), in a process of its own.

Chosen over h2load and k6 because it comes from PyPI with the tests, sends another message with every call, checks every
reply's status, and is not the bottleneck of any section here: it costs some 30 µs a call, the servers measured 150 and
more.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ngh2 import (
    Configuration,
    Connection,
    DataReceived,
    ResponseReceived,
    Role,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

STREAMS_A_CONNECTION: Final = 32


class Load(NamedTuple):
    """What a run of the generator saw."""

    calls: int
    seconds: float
    p50_us: float
    p99_us: float
    failed: int
    statuses: dict[str, int]
    """By gRPC status: how many calls ended so."""

    @property
    def calls_per_s(self) -> float:
        """The rate."""
        return self.calls / self.seconds


class Client:
    """One connection that keeps a number of calls in flight."""

    def __init__(self, address: tuple[str, int], method: str, messages: Sequence[bytes], rng: random.Random) -> None:
        self.address = address
        self.connect()
        self.messages = [b"\0" + len(message).to_bytes(4, "big") + message for message in messages]
        self.rng = rng
        self.headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()

    def connect(self) -> None:
        """Opens the connection."""
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = Connection(Role.CLIENT, Configuration(peer_max_concurrent_streams=1000))
        self.h2.initiate_connection({4: 1 << 20})
        self.started: dict[int, float] = {}

    def send(self) -> None:
        """Sends one more call."""
        stream = self.h2.send_request(self.headers)
        self.h2.send_data(stream, self.rng.choice(self.messages), end_stream=True)
        self.started[stream] = time.perf_counter()

    def flush(self) -> None:
        """Writes what is due."""
        if data := self.h2.data_to_send():
            self.socket.sendall(data)

    def receive(self) -> int:
        """Reads what has come and returns how many calls ended."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.h2.receive_data(data)
        ended, now = 0, time.perf_counter()
        for event in self.h2.events():
            if isinstance(event, DataReceived):
                continue
            if isinstance(event, TrailersReceived | ResponseReceived):
                status = dict(event.headers).get(b"grpc-status")
                if status is not None:
                    self.statuses[status.decode()] += 1
            elif isinstance(event, StreamReset):
                self.statuses["reset"] += 1
            elif isinstance(event, StreamClosed):
                self.latencies.append(now - self.started.pop(event.stream_id))
                ended += 1
        return ended


def run(address: str, method: str, messages: Sequence[bytes], in_flight: int, seconds: float) -> Load:
    """Keeps `in_flight` calls under way for so many seconds, after a fifth of that to warm up."""
    host, _, port = address.rpartition(":")
    rng = random.Random(in_flight)
    connections = -(-in_flight // STREAMS_A_CONNECTION)
    clients = [Client((host, int(port)), method, messages, rng) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
    for index in range(in_flight):
        clients[index % connections].send()
    for client in clients:
        client.flush()
    _drive(selector, seconds / 5)
    for client in clients:
        client.latencies.clear()
        client.statuses.clear()
    started = time.perf_counter()
    _drive(selector, seconds)
    elapsed = time.perf_counter() - started
    return _summary(clients, elapsed)


def _drive(selector: selectors.BaseSelector, seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for key, _ in selector.select(1.0):
            client: Client = key.data
            for _ in range(client.receive()):
                client.send()
            client.flush()


def _summary(clients: Sequence[Client], elapsed: float) -> Load:
    latencies = sorted(latency for client in clients for latency in client.latencies)
    statuses: Counter[str] = sum((client.statuses for client in clients), Counter())
    calls = len(latencies)
    return Load(
        calls=calls,
        seconds=elapsed,
        p50_us=latencies[calls // 2] * 1e6 if calls else float("nan"),
        p99_us=latencies[calls * 99 // 100] * 1e6 if calls else float("nan"),
        failed=sum(count for status, count in statuses.items() if status != "0"),
        statuses=dict(statuses),
    )


def main() -> None:
    """Reads what to do from standard input as JSON (messages in hexadecimal), writes what it saw as JSON."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    messages = [bytes.fromhex(line) for line in Path(asked.pop("messages")).read_text().split()]
    json.dump(run(messages=messages, **asked)._asdict(), sys.stdout)


if __name__ == "__main__":
    main()
