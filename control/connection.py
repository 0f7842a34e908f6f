"""Connections to the control plane and to gateways: channel, bearer token, retries, and errors as exceptions."""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Self, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from gateway.contract.errors import DOMAIN

Sent = TypeVar("Sent")
Got = TypeVar("Got")

READ_S: Final = 10.0
"""Seconds that a call which only reads gets."""
CHANGE_S: Final = 30.0
"""Seconds that a change gets: it waits for a disk to say that it is durable."""
SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
"""UNAVAILABLE alone is repeated: every change carries an idempotency key, so a repeated one happens once."""
OPTIONS: Final = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # A streamed upload can be repeated only while it is still held in memory whole.
    ("grpc.per_rpc_retry_buffer_size", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 64 << 20),
    # A server that froze is noticed by the ping's timeout; servers that punish pings allow one a minute.
    ("grpc.keepalive_time_ms", 65_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)


class CallFailed(Exception):  # noqa: N818 - the two kinds below name what failed
    """A call without an answer worth having."""

    def __init__(self, code: str, reason: str, message: str, facts: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.facts = dict(facts)


class Refused(CallFailed):
    """The server answered, and the answer is no; `reason` is one of the catalogue (docs/reasons.md)."""


class Unreachable(CallFailed):
    """No server answered: nobody listens, or nothing came within the deadline."""


class Connection:
    """One server and who calls it. Close it, or use it in a `with` block."""

    def __init__(self, address: str, token: str | None = None, server: str = "the server") -> None:
        self.address = address
        self.server = server
        self.channel = open_channel(address)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls in flight are cancelled."""
        self.channel.close()

    def call(self, method: grpc.UnaryUnaryMultiCallable[Sent, Got], request: Sent, deadline_s: float = READ_S) -> Got:
        """Sends one message and returns the answer; raises Refused or Unreachable."""
        try:
            return method(request, timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def send(
        self, method: grpc.StreamUnaryMultiCallable[Sent, Got], requests: Iterable[Sent], deadline_s: float
    ) -> Got:
        """Sends a stream of messages and returns the answer; raises Refused or Unreachable."""
        try:
            return method(iter(requests), timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def receive(
        self, method: grpc.UnaryStreamMultiCallable[Sent, Got], request: Sent, deadline_s: float
    ) -> Iterator[Got]:
        """Sends one message and yields the answers as they come; raises Refused or Unreachable."""
        try:
            yield from method(request, timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def exchange(
        self, method: grpc.StreamStreamMultiCallable[Sent, Got], requests: Iterable[Sent], deadline_s: float
    ) -> Iterator[Got]:
        """Sends a stream of messages and yields the answers as they come; raises Refused or Unreachable."""
        try:
            yield from method(iter(requests), timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def _failure(self, error: grpc.RpcError) -> CallFailed:
        assert isinstance(error, grpc.Call)
        return failure(error, f"{self.server} at {self.address}")


def open_channel(address: str) -> grpc.Channel:
    """Plaintext on this host, where the services listen so; TLS to every other, where a proxy must terminate it."""
    if is_loopback(address):
        return grpc.insecure_channel(address, OPTIONS)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(), OPTIONS)


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is this very host."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def failure(error: grpc.Call, server: str) -> CallFailed:
    """What a failed call means: the catalogue's reason where the server sent one, else what the transport saw."""
    code, details = error.code(), error.details() or ""
    if info := _error_info(error):
        return Refused(code.name, info.reason, details, info.metadata)
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return Unreachable(code.name, "CANNOT_CONNECT", f"cannot connect to {server} ({_cause(details)})")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreachable(code.name, "NO_ANSWER", f"no answer from {server} in time")
    return Refused(code.name, code.name, f"{server}: {details}")


def _error_info(error: grpc.Call) -> error_details_pb2.ErrorInfo | None:
    raw = next((v for k, v in error.trailing_metadata() or () if k == "grpc-status-details-bin"), None)
    if not isinstance(raw, bytes):
        return None
    for detail in status_pb2.Status.FromString(raw).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def _cause(details: str) -> str:
    """The last part of what gRPC says, which is the operating system's word: "Connection refused (111)"."""
    return details.rpartition(": ")[2] or "the connection broke"


def new_key() -> str:
    """An idempotency key that nobody used before."""
    return uuid.uuid4().hex
