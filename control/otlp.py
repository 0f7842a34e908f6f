"""What is exported of the control plane's calls: how long they took, and spans of those that are sampled.

A call leaves a line in a bounded queue when it has been answered; a thread of its own does the rest, and whatever the
collector does is that thread's concern alone. Needs the extra `otel`.
"""

from __future__ import annotations

import bisect
import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

import grpc

from control.config import Config
from control.guard import Rpc
from control.telemetry import log
from gateway.contract.otlp import (
    METRICS,
    MOST_SPANS,
    TRACES,
    Attributes,
    Kind,
    Metric,
    Point,
    encode_metrics,
    encode_spans,
    read_endpoint,
    read_headers,
)
from gateway.contract.tracing import NOBODY, Span, chosen, parse

BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""As OpenTelemetry's conventions have them for calls."""
MOST_WAITING: Final = 4096
"""Calls, and spans, that wait; the oldest are dropped first."""
TIMEOUT_S: Final = 5.0
FAREWELL_S: Final = 1.5
OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 30_000)]


class Durations:
    """How long calls took, by method and status. For one thread."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums_s: dict[tuple[str, str], float] = {}

    def add(self, rpc: Rpc) -> None:
        """Counts one call."""
        key, took_s = (rpc.method, rpc.code), rpc.took_ns / 1e9
        counts = self._counts.setdefault(key, [0] * (len(BOUNDS_S) + 1))
        counts[bisect.bisect_left(BOUNDS_S, took_s)] += 1
        self._sums_s[key] = self._sums_s.get(key, 0.0) + took_s

    def metric(self) -> Metric:
        """All of it, under OpenTelemetry's own name."""
        points = [
            Point(described(method, code), self._sums_s[method, code], BOUNDS_S, list(counts))
            for (method, code), counts in self._counts.items()
        ]
        return Metric("rpc.server.call.duration", "How long calls took.", "s", Kind.HISTOGRAM, points)


def described(method: str, code: str) -> dict[str, str | int | float | bool]:
    """A call in OpenTelemetry's words."""
    return {"rpc.system.name": "grpc", "rpc.method": method.lstrip("/"), "rpc.response.status_code": code}


def span_of(rpc: Rpc, share_bps: int) -> Span | None:
    """The span of a call whose caller records its trace, or of a share of those that bear none; None for the others."""
    context = parse(rpc.traceparent)
    trace_id, parent_id = (context.trace_id, context.span_id) if context else (secrets.token_bytes(16), NOBODY)
    if not (context.sampled if context else chosen(trace_id.hex(), share_bps)):
        return None
    return Span(
        trace_id=trace_id,
        span_id=secrets.token_bytes(8),
        parent_id=parent_id,
        name=rpc.method.lstrip("/"),
        serves=True,
        start_ns=rpc.started_ns,
        end_ns=rpc.started_ns + rpc.took_ns,
        attributes=described(rpc.method, rpc.code),
        error="" if rpc.code == "OK" else rpc.code,
    )


class Exporter:
    """Sends what `take` was given, from a thread of its own that ends at the latest FAREWELL_S after `stop`."""

    def __init__(self, config: Config, instance: str) -> None:
        self._config = config
        self._resource: Attributes = {
            "service.name": "interlock-control",
            "service.instance.id": instance,
            "host.name": socket.gethostname(),
        }
        self._headers = read_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
        self._channel = _connect(config.otlp_endpoint)
        self._since_ns = time.time_ns()
        self._calls: deque[Rpc] = deque(maxlen=MOST_WAITING)
        self._spans: deque[Span] = deque(maxlen=MOST_WAITING)
        self._durations = Durations()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="otlp", daemon=True)
        self._thread.start()

    def take(self, rpc: Rpc) -> None:
        """Takes note of a call; never waits."""
        self._calls.append(rpc)

    def stop(self) -> None:
        """Sends the rest, if the collector takes it in time."""
        self._stopping.set()
        self._thread.join(FAREWELL_S)
        self._channel.close()
        self._thread.join(FAREWELL_S)  # which the closed channel ends

    def _work(self) -> None:
        while not self._stopping.wait(self._config.otlp_interval_ms / 1000):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._calls:
            rpc = self._calls.popleft()
            self._durations.add(rpc)
            if (span := span_of(rpc, self._config.otlp_sample_bps)) is not None:
                self._spans.append(span)
        metrics = encode_metrics(self._resource, [self._durations.metric()], self._since_ns, time.time_ns())
        sent = self._send(METRICS, metrics)
        while sent and self._spans:
            some = [self._spans.popleft() for _ in range(min(MOST_SPANS, len(self._spans)))]
            sent = self._send(TRACES, encode_spans(self._resource, some))
            if not sent:
                self._spans.extendleft(reversed(some))

    def _send(self, path: str, message: bytes) -> bool:
        """Whether the collector took it."""
        try:
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
            method(message, timeout=TIMEOUT_S, metadata=self._headers)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed, since we are to stop
            reason = error.code().name if isinstance(error, grpc.Call) else "closed"
            log(logging.WARNING, "otlp_not_sent", reason=reason, path=path, waiting_spans=len(self._spans))
            return False
        return True


def _connect(endpoint: str) -> grpc.Channel:
    target, secure = read_endpoint(endpoint)
    if not secure:
        return grpc.insecure_channel(target, OPTIONS)
    authority = os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
    roots = Path(authority).read_bytes() if authority else None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), OPTIONS)
