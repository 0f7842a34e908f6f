"""The transport on grpc.aio and uvloop: one event loop, whose tick is the batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.config import Config
from gateway.contract.errors import Code, Fault, Reason
from gateway.contract.tracing import sent
from gateway.transport import Answer, Call, Process, Reply
from gateway.transport.goaway import Connections

RETRY_PUSHBACK_MS: Final = "50"
"""When an overloaded worker's caller may come back; half a second of queue drains in less."""
QUIET_TURNS: Final = 16
"""Turns of the loop without a new call after which a batch is closed. A call reaches us by several turns, in which it
overlaps with others; an idle turn takes some 3 µs."""
PROBE_CALLS: Final = 32
"""One call in so many that are answered alone waits as a batch would, and so finds out whether others are on their way.
At 32 calls in flight on one core this took the CPU time a call from 1.9 to 1.1 times a bare handler's."""
MAX_BATCH_CALLS: Final = 256
MAX_BATCH_BYTES: Final = 65_536
"""With the number of calls, what bounds the time that a batch keeps the loop: some 20 calls of 256 rows."""
QUIET_S: Final = 0.02
QUIET_NS: Final = 500_000_000
"""How long no call has come before a draining worker stops though somebody is connected: several round trips."""
LONGEST_FAREWELL_MS: Final = 500
"""How long those who do not follow GOAWAY are refused before the worker stops: some never leave it a quiet moment."""
STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


def channel_arguments(config: Config) -> list[tuple[str, int]]:
    """What keeps one caller from taking the server from the others (names as in grpc's channel_arg_names.h)."""
    arguments = [
        ("grpc.so_reuseport", 1),
        # The core answers what is larger still; between the two limits we answer ourselves, with a reason.
        ("grpc.max_receive_message_length", 4 << 20),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.max_metadata_size", 8_192),
        ("grpc.absolute_max_metadata_size", 8_192),
        ("grpc.http2.min_ping_interval_without_data_ms", 60_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A frozen peer is noticed by this one; by the keepalive's timeout alone it takes a minute more.
        ("grpc.http2.ping_timeout_ms", 10_000),
    ]
    if config.max_connection_age_s:
        grace_ms = max(10_000, config.default_deadline_ms)
        arguments += [
            ("grpc.max_connection_age_ms", config.max_connection_age_s * 1000),
            ("grpc.max_connection_age_grace_ms", grace_ms),
        ]
    return arguments


class GrpcioTransport(grpc.GenericRpcHandler):
    """Serves the methods that `process` answers, others that something else answers, and health beside them.

    `methods` are full names, with whether each streams; `others` are unary; `refuse` is how a fault is told,
    `describe` adds what describes the services. Whatever else is called is answered METHOD_UNKNOWN.
    """

    def __init__(
        self,
        config: Config,
        methods: Mapping[str, bool],
        process: Process,
        others: Mapping[str, Answer],
        refuse: Callable[[Fault], Reply],
        describe: Callable[[grpc.aio.Server], None],
    ) -> None:
        self.config = config
        self.refuse = refuse
        self.describe = describe
        self.process = process
        self._pending: list[tuple[Call, asyncio.Future[Reply]]] = []
        self._alone = 0
        self._busy = False
        """Whether calls are collected into batches: the last one had several, or it is time to see whether it would."""
        self.overloaded = 0
        self._ending = self._refused = False
        self._streams = 0
        self._last_call_ns = 0
        self.health = health.aio.HealthServicer()
        self._traces = bool(config.otlp_endpoint)
        """Whether callers' trace contexts are looked for."""
        self._methods = methods
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {name: self._handler(name) for name in methods}
        self._handlers |= {
            name: grpc.unary_unary_rpc_method_handler(_beside(answer)) for name, answer in others.items()
        }
        self._overload = refuse(
            Fault(
                Reason.OVERLOADED,
                f"{config.max_in_flight} calls are in flight in this worker, its limit (gateway.max_in_flight); "
                f"come back after {RETRY_PUSHBACK_MS} ms",
                retry_after_ms=RETRY_PUSHBACK_MS,
            )
        )

    async def start(self) -> None:
        """Binds the port and begins to serve."""
        self._loop = asyncio.get_running_loop()
        self._server = grpc.aio.server(options=channel_arguments(self.config))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.describe(self._server)
        self._server.add_generic_rpc_handlers((self,))
        self._port = self._server.add_insecure_port(self.config.address)
        await self._server.start()

    async def report(self, serving: bool) -> None:
        """Says on the health service whether the worker takes calls."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", "gateway.v1.ScoringService"):
            await self.health.set(service, status)

    async def drain(self) -> None:
        """Lets callers go, then closes, within drain_ms and a farewell to those who stay: no other's call is lost."""
        deadline_ns = time.monotonic_ns() + self.config.drain_ms * 1_000_000
        await self.health.enter_graceful_shutdown()
        await asyncio.sleep(QUIET_S)  # in which those who watch the health are told
        connections = Connections(self._port)
        connections.close_door()
        self._last_call_ns = time.monotonic_ns()
        while connections.ask_to_leave() and (self._streams or not self._quiet()):
            if time.monotonic_ns() > deadline_ns:
                await self._say_farewell()
                break
            await asyncio.sleep(QUIET_S)
        await self._server.stop(max(deadline_ns - time.monotonic_ns(), 0) / 1e9)

    def _quiet(self) -> bool:
        """Whether those who are still connected have long made no call: they have read GOAWAY, or want nothing."""
        return not self._pending and time.monotonic_ns() > self._last_call_ns + QUIET_NS

    async def _say_farewell(self) -> None:
        """Refuses those who do not follow GOAWAY until no call comes: the core cancels what arrives as it stops."""
        self._traces, self._ending = False, True
        farewell: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._farewell)
        self._handlers = {
            name: handler if handler.request_streaming else farewell for name, handler in self._handlers.items()
        }
        deadline_ns = time.monotonic_ns() + LONGEST_FAREWELL_MS * 1_000_000
        self._refused = True
        while self._refused and time.monotonic_ns() < deadline_ns:
            self._refused = False
            await asyncio.sleep(QUIET_S)

    async def _farewell(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:  # noqa: ARG002
        self._refused = True
        fault = Fault(Reason.DRAINING, "this worker is ending; repeat the call on another connection")
        await _abort(context, self.refuse(fault))
        raise AssertionError(Code.UNAVAILABLE)  # abort has raised

    def service(self, details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of a method: grpc asks once for each call."""
        self._last_call_ns = time.monotonic_ns()
        handler = self._handlers.get(details.method)
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(self._unknown(details.method))
        if self._traces and details.method in self._methods and (trace := sent(details.invocation_metadata)):
            return self._handler(details.method, trace)
        return handler

    def _handler(self, method: str, trace: str = "") -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of a method that `process` answers; of one call only, where that bears a trace context."""
        if self._methods[method]:
            return grpc.stream_stream_rpc_method_handler(self._stream(method, trace))
        return grpc.unary_unary_rpc_method_handler(self._behaviour(method, trace))

    def _unknown(self, method: str) -> Callable[[bytes, Any], Any]:
        fault = Fault(Reason.METHOD_UNKNOWN, f"no method {method[:200]} is served here; compare the protos")
        return _beside(lambda _: self.refuse(fault))

    def _behaviour(self, method: str, trace: str) -> Callable[[bytes, Any], Any]:
        default_ns = self.config.default_deadline_ms * 1_000_000
        limit = self.config.max_in_flight

        async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            if self.in_flight >= limit:
                self.overloaded += 1
                context.set_trailing_metadata((("grpc-retry-pushback-ms", RETRY_PUSHBACK_MS),))
                await _abort(context, self._overload)
            remaining = context.time_remaining()
            deadline_ns = time.monotonic_ns() + (default_ns if remaining is None else int(remaining * 1e9))
            call = Call(method, request, deadline_ns, trace)
            reply = await self._enqueue(call) if self._busy else self._answer_alone(call)
            if reply.code:
                await _abort(context, reply)
            return reply.body

        return behaviour

    @property
    def in_flight(self) -> int:
        """Calls accepted and not yet answered."""
        return len(self._pending)

    def _stream(self, method: str, trace: str) -> Callable[[Any, Any], Any]:
        default_ns = self.config.default_deadline_ms * 1_000_000

        async def behaviour(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
        ) -> AsyncIterator[bytes]:
            self._streams += 1
            try:
                async for request in requests:
                    if self._ending:
                        await self._farewell(request, context)
                    if self.in_flight >= self.config.max_in_flight:
                        self.overloaded += 1
                        await _abort(context, self._overload)
                    call = Call(method, request, time.monotonic_ns() + default_ns, trace)
                    reply = await self._enqueue(call) if self._busy else self._answer_alone(call)
                    yield reply.body
            finally:
                self._streams -= 1

        return behaviour

    def _answer_alone(self, call: Call) -> Reply:
        """Answers a call without waiting for others; the next one in so many looks whether others are on their way."""
        self._alone += 1
        self._busy = self._alone % PROBE_CALLS == 0
        return self.process((call,))[0]

    def _enqueue(self, call: Call) -> asyncio.Future[Reply]:
        """Adds the call to the batch that is answered as soon as the loop has handed over all that has arrived."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._pending.append((call, future))
        if len(self._pending) == 1:
            self._loop.call_soon(self._flush, 1, 0)
        return future

    def _flush(self, seen: int, quiet_turns: int) -> None:
        """Answers what is pending once the loop has gone round without a new call: batches are as large as the load."""
        pending = len(self._pending)
        quiet_turns = quiet_turns + 1 if pending == seen else 0
        if quiet_turns < QUIET_TURNS and pending < MAX_BATCH_CALLS:
            self._loop.call_soon(self._flush, pending, quiet_turns)
            return
        batch = self._next_batch()
        replies = self.process([call for call, _ in batch])
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():  # the caller may have gone away meanwhile
                future.set_result(reply)
        self._busy = len(batch) > 1
        if self._pending:
            self._loop.call_soon(self._flush, len(self._pending), 0)

    def _next_batch(self) -> list[tuple[Call, asyncio.Future[Reply]]]:
        """The oldest pending calls: as many as there are, within the limits of a batch."""
        size = 0
        for taken, (call, _) in enumerate(self._pending):
            size += len(call.request)
            if taken == MAX_BATCH_CALLS or (taken and size > MAX_BATCH_BYTES):
                batch, self._pending = self._pending[:taken], self._pending[taken:]
                return batch
        batch, self._pending = self._pending, []
        return batch


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], reply: Reply) -> None:
    trailers = (*context.trailing_metadata(), ("grpc-status-details-bin", reply.details))
    await context.abort(STATUS[reply.code], reply.message, trailers)


def _beside(answer: Answer) -> Callable[[bytes, Any], Any]:
    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        said = answer(request)
        reply = said if isinstance(said, Reply) else await said
        if reply.code:
            await _abort(context, reply)
        return reply.body

    return behaviour
