"""What stands around every method of every service: authentication, decoding, and faults as gRPC statuses.

All of it runs in the call's own thread, never in grpc's polling thread, where a look at the store would delay others.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from control.security import POLICY, Caller, FindToken, authenticate, authorize, bearer, remember_caller
from control.telemetry import log, log_error
from gateway.contract.errors import DOMAIN, Fault, Reason
from gateway.contract.ration import ErrorIds, cause_of
from gateway.contract.tracing import sent

RECHECK_S: Final = 2.0
"""How long a stream goes on after its token was revoked or has expired."""
LONGEST_MESSAGE_BYTES: Final = 3000
"""Bytes of a fault's message on the wire: it is sent twice in trailers, of which clients take 8 KiB."""
ERROR_IDS: Final = ErrorIds(partial(secrets.token_hex, 8))
STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Rpc(NamedTuple):
    """A call that was answered."""

    method: str
    """Full name: /package.Service/Method."""
    code: str
    """The name of its gRPC status."""
    started_ns: int
    """UTC."""
    took_ns: int
    traceparent: str
    """The caller's, empty for none."""


class Guard(grpc.GenericRpcHandler):
    """Serves what it is given behind the policy table; whatever else is called is answered METHOD_UNKNOWN.

    Streams run on a pool of their own, so that slow uploads and watching gateways never take the threads of others.
    """

    def __init__(
        self, find: FindToken, clock: Callable[[], int], streams: ThreadPoolExecutor, max_message_bytes: int
    ) -> None:
        self._find = find
        self._clock = clock
        self._streams = streams
        self._max_message_bytes = max_message_bytes
        self.observe: Callable[[Rpc], None] | None = None
        """Told of every call that was answered; must not wait."""
        self._methods: dict[str, Handler] = {}
        self.services: list[str] = []

    def serve(self, service: ServiceDescriptor, servicer: object) -> None:
        """Adds a service; raises LookupError where a method of it has no row in the policy table."""
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            if path not in POLICY:
                raise LookupError(f"{path} has no row in the policy table of control.security: add one")
            self._methods[path] = self._guarded(path, method, getattr(servicer, method.name))
        self.services.append(service.full_name)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a method: grpc asks once for each call."""
        return self._methods.get(handler_call_details.method) or _UNKNOWN

    def _guarded(self, path: str, method: MethodDescriptor, behaviour: Callable[[Any, Any], Any]) -> Handler:
        message_type, most = GetMessageClass(method.input_type), self._max_message_bytes

        def decode(raw: bytes) -> Message:
            return _decoded(raw, message_type, most)

        def request(raw: Any, permit: _Permit) -> Any:
            return _messages(raw, decode, permit) if method.client_streaming else decode(raw)

        def answer(raw: Any, context: grpc.ServicerContext) -> bytes:
            with self._observed(path, context), _answering(path, context):
                permit = _Permit(path, context, self._authenticate)
                response: Message = behaviour(request(raw, permit), context)
                return response.SerializeToString()
            raise AssertionError(path)  # _answering lets no exception pass unanswered

        def stream(raw: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._observed(path, context), _answering(path, context):
                permit = _Permit(path, context, self._authenticate)
                for response in behaviour(request(raw, permit), context):
                    permit.renew()
                    yield response.SerializeToString()

        chosen: Any = stream if method.server_streaming else answer
        if method.client_streaming or method.server_streaming:
            chosen.experimental_thread_pool = self._streams
        return _handler(method, chosen)

    @contextmanager
    def _observed(self, path: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Takes the time until the answer is there; what is made of it happens elsewhere."""
        observe, started_ns, before_ns = self.observe, time.time_ns(), time.perf_counter_ns()
        try:
            yield
        finally:
            if observe is not None:
                unset = grpc.StatusCode.OK if context.is_active() else grpc.StatusCode.CANCELLED
                code = context.code() or unset  # type: ignore[attr-defined]  # its stubs leave the method out
                took_ns = time.perf_counter_ns() - before_ns
                observe(Rpc(path, code.name, started_ns, took_ns, sent(context.invocation_metadata())))

    def _authenticate(self, context: grpc.ServicerContext) -> Caller:
        return authenticate(bearer(context.invocation_metadata()), self._find, self._clock())


class _Permit:
    """That a caller may make this call, looked at again while it lasts."""

    def __init__(
        self, path: str, context: grpc.ServicerContext, authenticate: Callable[[grpc.ServicerContext], Caller]
    ) -> None:
        self._path = path
        self._context = context
        self._authenticate = authenticate
        self._check()

    def renew(self) -> None:
        """Raises a fault where the permit has lapsed."""
        if time.monotonic() - self._checked_s > RECHECK_S:
            self._check()

    def _check(self) -> None:
        self._checked_s = time.monotonic()
        try:
            who = self._authenticate(self._context)
            authorize(self._path, who)
        except Fault as fault:
            if fault.reason is not Reason.STORE_UNAVAILABLE:
                log(logging.WARNING, "denied", method=self._path, peer=self._context.peer(), why=fault.message)
            raise
        remember_caller(self._context, who)


def status_of(fault: Fault) -> Status:
    """The status that carries a fault, with its reason for programs."""
    info = AnyMessage()
    info.Pack(ErrorInfo(reason=fault.reason, domain=DOMAIN, metadata=fault.facts))
    return Status(code=fault.code, message=_cut(fault.message), details=[info])


def _cut(message: str) -> str:
    """The message, or as much of it as fits: grpc writes all but printable ASCII as `%XX`."""
    left = LONGEST_MESSAGE_BYTES
    for place, character in enumerate(message):
        left -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if left < 0:
            return message[: max(place - 3, 0)] + "…"
    return message


@contextmanager
def _answering(path: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Answers whatever is raised: a fault as itself, anything else as INTERNAL with an id under which it is logged."""
    try:
        yield
    except grpc.RpcError:
        raise  # the caller has gone; there is nobody to answer
    except Fault as fault:
        _abort(context, fault)
    except Exception as error:
        cause = cause_of(error)
        error_id, fresh = ERROR_IDS.tell(cause, time.monotonic_ns())
        if fresh:
            log_error("internal_error", error, error_id=error_id, cause=cause, method=path)
        message = f"a fault of the control plane's own; its log has the cause under {error_id}"
        _abort(context, Fault(Reason.INTERNAL, message, error_id=error_id))


def _abort(context: grpc.ServicerContext, fault: Fault) -> None:
    status = status_of(fault)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(STATUS[fault.code], status.message)


def _decoded(raw: bytes, message_type: type[Message], most_bytes: int) -> Message:
    if len(raw) > most_bytes:
        raise Fault(
            Reason.MESSAGE_TOO_LARGE,
            f"the message has {len(raw)} bytes; {most_bytes} are taken (control.max_message_bytes)",
            max_bytes=str(most_bytes),
        )
    try:
        return message_type.FromString(raw)
    except DecodeError:
        raise Fault(
            Reason.MALFORMED_REQUEST, "the bytes are not the message that the method takes; compare the protos"
        ) from None


def _messages(raw: Iterator[bytes], decode: Callable[[bytes], Message], permit: _Permit) -> Iterator[Message]:
    for item in raw:
        permit.renew()
        yield decode(item)


def _handler(method: MethodDescriptor, behaviour: Callable[..., Any]) -> Handler:
    match method.client_streaming, method.server_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler(behaviour)
        case False, True:
            return grpc.unary_stream_rpc_method_handler(behaviour)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(behaviour)
        case _:
            return grpc.stream_stream_rpc_method_handler(behaviour)


def _no_such_method(_: bytes, context: grpc.ServicerContext) -> bytes:
    _abort(context, Fault(Reason.METHOD_UNKNOWN, "the control plane has no such method; compare the protos"))
    raise AssertionError  # abort has raised


_UNKNOWN: Final[Handler] = grpc.unary_unary_rpc_method_handler(_no_such_method)
