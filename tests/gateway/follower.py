"""A client on plain HTTP/2 that repeats nothing, and follows GOAWAY as RFC 9113 has it, section 6.8."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import Counter

from ngh2 import (
    Configuration,
    Connection,
    GoAwayReceived,
    ResponseReceived,
    Role,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

from gateway.transport.goaway import GOAWAY


class Wire:
    """One connection with calls in flight. Its caller leaves it as soon as `gone` says so; a deaf one never does."""

    def __init__(self, address: str, method: str, message: bytes, *, deaf: bool = False) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = Connection(Role.CLIENT, Configuration(peer_max_concurrent_streams=100))
        self.h2.initiate_connection({})
        self.body = b"\0" + len(message).to_bytes(4, "big") + message
        self.headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        self.live: set[int] = set()
        self.statuses: dict[int, str] = {}
        self.trailers: dict[bytes, bytes] = {}
        """Of the call that failed last."""
        self.deaf = deaf
        self.gone = False
        self.closed = False

    def send(self) -> None:
        """Sends one more call."""
        stream = self.h2.send_request(self.headers)
        self.h2.send_data(stream, self.body, end_stream=True)
        self.live.add(stream)
        self.socket.sendall(self.h2.data_to_send())

    def receive(self) -> list[str]:
        """Reads what has come, and says how each call ended that did: OK, unseen by the server, or lost in some way."""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return ["closed under the call" for _ in self.live]
        self.h2.receive_data(data.replace(GOAWAY, b"") if self.deaf else data)
        ended = [how for event in self.h2.events() for how in self._ended(event)]
        if due := self.h2.data_to_send():
            self.socket.sendall(due)
        return ended

    def _ended(self, event: object) -> list[str]:
        match event:
            case GoAwayReceived():
                self.gone = True
                unseen = {stream for stream in self.live if stream > event.last_stream_id}
                self.live -= unseen
                return ["unseen" for _ in unseen]
            case TrailersReceived() | ResponseReceived():
                status = dict(event.headers).get(b"grpc-status")
                if status not in (None, b"0"):
                    self.trailers = dict(event.headers)
                if status is not None:
                    self.statuses[event.stream_id] = "OK" if status == b"0" else f"status {status.decode()}"
            case StreamReset():
                self.statuses.setdefault(event.stream_id, f"reset {event.error_code}")
            case StreamClosed() if event.stream_id in self.live:
                self.live.remove(event.stream_id)
                return [self.statuses.pop(event.stream_id, "no status")]
        return []


def follow(address: str, method: str, message: bytes, in_flight: int, until: threading.Event) -> Counter[str]:
    """Keeps calls in flight, always on a connection that has not been asked to close; returns how they ended."""
    ends: Counter[str] = Counter()
    with selectors.DefaultSelector() as selector:

        def connect() -> None:
            wire = Wire(address, method, message)
            selector.register(wire.socket, selectors.EVENT_READ, wire)
            for _ in range(in_flight):
                wire.send()

        connect()
        while not until.is_set():
            for key, _ in selector.select(0.1):
                wire: Wire = key.data
                left = wire.gone
                ended = wire.receive()
                ends.update(ended)
                if wire.closed or (wire.gone and not wire.live):
                    selector.unregister(wire.socket)
                    wire.socket.close()
                if (wire.gone or wire.closed) and not left:
                    connect()
                elif not left:
                    for _ in ended:
                        wire.send()
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return ends
