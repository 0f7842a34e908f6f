"""Two other fronts for the gateway's pipeline, to try its interface: `python -m benchmarks.trial_fronts NAME DATA`.

`pygrpc_native` has HTTP/2 in Rust and hands batches to a loop of ours; `ngh2` is libnghttp2 on an event loop. They
serve unary calls, without what makes a server fit for strangers: no limits, no health, no reflection.
"""

from __future__ import annotations

import asyncio
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, cast
from urllib.parse import quote

import uvloop
from ngh2 import Configuration, Connection, DataReceived, RequestReceived, Role, StreamReset

from gateway.config import Config
from gateway.features.store import OnlineStore
from gateway.journal import JournalWriter
from gateway.loader import POLL_S, Loader
from gateway.pipeline import Pipeline
from gateway.transport import Call, Process, Reply
from gateway.wire.methods import METHODS

MAX_BATCH_CALLS: Final = 256
DEADLINE_NS: Final = 1_000_000_000
PREFIX_BYTES: Final = 5
"""Of each message: whether it is compressed, and its length."""


def serve_pygrpc_native(process: Process) -> None:
    """A blocking loop: what has come while the last batch ran is the next one."""
    from pygrpc_native import EVENT_CALL, NativeGrpcFront

    names = [name for name, method in METHODS.items() if not method.streams]
    front = NativeGrpcFront("127.0.0.1:0", [(name, False) for name in names], io_threads=1, call_details=True)
    front.start()
    print(front.bound_port, flush=True)
    while (events := front.recv_batch_details(MAX_BATCH_CALLS)) is not None:
        arrived_ns = time.monotonic_ns()
        ids, calls = [], []
        for kind, call_id, method, payload, _, details in events:
            if kind == EVENT_CALL:
                left_s = details[2]
                left_ns = DEADLINE_NS if left_s is None else int(left_s * 1e9)
                ids.append(call_id)
                calls.append(Call(names[method], payload, arrived_ns + left_ns))
        for call_id, reply in zip(ids, process(calls), strict=True):
            if reply.code:
                trailers = [("grpc-status-details-bin", reply.details)]
                front.fail(call_id, reply.code, reply.message, trailers)
            else:
                front.respond(call_id, reply.body)


class Pending(NamedTuple):
    """A call that waits for the end of the loop's turn."""

    peer: Peer
    stream: int
    call: Call


class Turn:
    """Collects the calls of one turn of the event loop, from all connections, into a batch."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.pending: list[Pending] = []

    def add(self, pending: Pending) -> None:
        """Adds a call; the first of a turn has the batch answered after it."""
        if not self.pending:
            asyncio.get_running_loop().call_soon(self.flush)
        self.pending.append(pending)

    def flush(self) -> None:
        """Answers the oldest calls, and writes once to each connection."""
        batch, self.pending = self.pending[:MAX_BATCH_CALLS], self.pending[MAX_BATCH_CALLS:]
        if self.pending:
            asyncio.get_running_loop().call_soon(self.flush)
        replies = self.process([pending.call for pending in batch])
        for pending, reply in zip(batch, replies, strict=True):
            pending.peer.reply(pending.stream, reply)
        for peer in {pending.peer for pending in batch}:
            peer.flush()


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.h2 = Connection(Role.SERVER, Configuration())
        self.h2.initiate_connection({3: 256})
        self.streams: dict[int, tuple[str, bytearray]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the settings."""
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclasses
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Hands over each call whose message is complete."""
        self.h2.receive_data(data)
        for event in self.h2.events():
            if isinstance(event, RequestReceived):
                self.streams[event.stream_id] = (dict(event.headers)[b":path"].decode(), bytearray())
            elif isinstance(event, StreamReset):
                self.streams.pop(event.stream_id, None)
            elif isinstance(event, DataReceived):
                self.streams[event.stream_id][1].extend(event.data)
                if event.end_stream:
                    path, body = self.streams.pop(event.stream_id)
                    call = Call(path, bytes(body[PREFIX_BYTES:]), time.monotonic_ns() + DEADLINE_NS)
                    self.turn.add(Pending(self, event.stream_id, call))
        self.flush()

    def reply(self, stream: int, reply: Reply) -> None:
        """Queues an answer."""
        self.h2.send_response(stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
        trailers = [(b"grpc-status", b"%d" % reply.code)]
        if reply.code:
            trailers.append((b"grpc-message", quote(reply.message, safe=" ").encode()))
            trailers.append((b"grpc-status-details-bin", b64encode(reply.details).rstrip(b"=")))
        else:
            self.h2.send_data(stream, b"\0" + len(reply.body).to_bytes(4, "big") + reply.body)
        self.h2.send_trailers(stream, trailers)

    def flush(self) -> None:
        """Writes what is due."""
        if data := self.h2.data_to_send():
            self.transport.write(data)


def serve_ngh2(process: Process) -> None:
    """On uvloop."""

    async def serve() -> None:
        turn = Turn(process)
        server = await asyncio.get_running_loop().create_server(lambda: Peer(turn), "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    uvloop.run(serve())


FRONTS: Final[dict[str, Callable[[Process], None]]] = {"pygrpc_native": serve_pygrpc_native, "ngh2": serve_ngh2}


def pipeline(data: Path, name: str) -> Pipeline:
    """The gateway's own, with its versions loaded, and a journal apart from the gateway's."""
    config = Config(data=data)
    ready = Pipeline(
        OnlineStore(config.features_path),
        JournalWriter(data / f"journal-{name}" / "worker-0", 64 << 20),
        config.max_message_bytes,
    )
    loader = Loader(config.routes_path, config.artifacts_path, ready, data / f"{name}.lock", lambda: True)

    async def load() -> None:
        following = asyncio.create_task(loader.follow())
        while not loader.ready:
            await asyncio.sleep(POLL_S)
        following.cancel()

    asyncio.run(load())
    return ready


if __name__ == "__main__":
    FRONTS[sys.argv[1]](pipeline(Path(sys.argv[2]), sys.argv[1]).process)
