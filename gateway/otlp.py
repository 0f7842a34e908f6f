"""The exporter: a process that sends metrics and sampled spans to an OpenTelemetry collector, by OTLP over gRPC.

It reads what others read (boards and journals) and shares nothing with them, so that a collector that hangs, refuses
or is not there takes spans from their readers and nothing from anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio

from gateway.board import Board
from gateway.config import Config
from gateway.contract.otlp import (
    METRICS,
    MOST_SPANS,
    TRACES,
    Attributes,
    encode_metrics,
    encode_spans,
    read_endpoint,
    read_headers,
    rejected,
)
from gateway.contract.tracing import Span
from gateway.journal_reader import JournalReader
from gateway.loop import run_until_terminated
from gateway.metrics import BoardCollector
from gateway.samples import metrics_of
from gateway.spans import spans_of
from gateway.telemetry import log, settle

PAUSE_S: Final = 0.1
AT_ONCE: Final = 1024
"""Blocks looked at before anything else gets its turn."""
MOST_WAITING: Final = 16 * MOST_SPANS
"""Spans that wait for a collector; the oldest are dropped first, and counted."""
TIMEOUT_S: Final = 5.0
FAREWELL_S: Final = 1.5
"""How long the last message may take when the gateway ends."""
OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 30_000),
    ("grpc.keepalive_time_ms", 65_000),
]


def run(config: Config) -> None:
    """Works until SIGTERM, which comes after the workers have ended; then sends the rest."""
    run_until_terminated(_work(config))


async def _work(config: Config) -> None:
    async with connect(config.otlp_endpoint) as channel:
        await Exporter(config, channel).work()


def connect(endpoint: str) -> aio.Channel:
    """A channel to the collector; certificates and headers come from OpenTelemetry's own variables."""
    target, secure = read_endpoint(endpoint)
    if not secure:
        return aio.insecure_channel(target, OPTIONS)
    authority = os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
    roots = Path(authority).read_bytes() if authority else None
    return aio.secure_channel(target, grpc.ssl_channel_credentials(roots), OPTIONS)


class Exporter:
    """Spans wait in memory, at most so many; metrics are read anew each time, so that none has to wait."""

    def __init__(self, config: Config, channel: aio.Channel) -> None:
        self.config = config
        self._channel = channel
        self._headers = aio.Metadata(*read_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")))
        self._resource = resource_of(config)
        self._collector = BoardCollector(config)
        self._since_ns = (config.data / "gateway.id").stat().st_mtime_ns
        self._state = config.data / "exporter.state"
        self._reader = JournalReader(config.journal_path, recall(self._state))
        self._kept = ""
        self._spans: deque[Span] = deque()
        self._board = Board(config.run_path / "exporter.board")
        self._counts = {"spans_sent": 0, "spans_dropped": 0, "sent": 0, "failed": 0}

    async def work(self) -> None:
        """Reads and sends, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._collect())
                tasks.create_task(self._send_spans())
                tasks.create_task(self._send_metrics())
        finally:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._say_farewell(), FAREWELL_S)

    async def _collect(self) -> None:
        while True:
            full = self._read()
            self._keep()
            self._board.write({"pid": os.getpid(), "heartbeat_ns": time.monotonic_ns(), **self._counts})
            await asyncio.sleep(0 if full else PAUSE_S)

    def _read(self) -> bool:
        """Takes the spans of what was journalled; whether there may be more."""
        blocks = list(islice(self._reader.poll(AT_ONCE), AT_ONCE))
        for block in blocks:
            self._spans.extend(spans_of(block, self.config.otlp_sample_bps))
        while len(self._spans) > MOST_WAITING:
            self._spans.popleft()
            self._counts["spans_dropped"] += 1
        return len(blocks) == AT_ONCE

    def _keep(self) -> None:
        """Saves where the reader is; spans that were not sent when the process is killed are lost."""
        positions = json.dumps(self._reader.positions)
        if positions == self._kept:
            return
        fresh = self._state.with_suffix(".new")
        try:
            fresh.write_text(positions)
            fresh.rename(self._state)
        except OSError as error:
            log(logging.WARNING, "position_not_saved", why=os.strerror(error.errno or 0))
        self._kept = positions

    async def _send_spans(self) -> None:
        while True:
            await asyncio.sleep(self.config.otlp_interval_ms / 1000)
            while self._spans and await self._send_some():
                pass
            settle()

    async def _send_some(self) -> bool:
        """Sends the oldest spans; those that could not be sent wait on."""
        taken = [self._spans.popleft() for _ in range(min(MOST_SPANS, len(self._spans)))]
        if await self._send(TRACES, encode_spans(self._resource, taken)):
            self._counts["spans_sent"] += len(taken)
            return True
        self._spans.extendleft(reversed(taken))
        return False

    async def _send_metrics(self) -> None:
        while True:
            await asyncio.sleep(self.config.otlp_interval_ms / 1000)
            await self._send(METRICS, self._metrics())

    def _metrics(self) -> bytes:
        return encode_metrics(self._resource, metrics_of(self._collector.collect()), self._since_ns, time.time_ns())

    async def _send(self, path: str, message: bytes) -> bool:
        """Whether the collector took the message. Never raises but for cancellation."""
        method: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
        try:
            response = await method(message, timeout=TIMEOUT_S, metadata=self._headers)
            refused = rejected(path, response)
        except (aio.AioRpcError, ValueError) as error:
            self._counts["failed"] += 1
            log(logging.WARNING, "otlp_not_sent", reason=_words(error), path=path, waiting_spans=len(self._spans))
            return False
        self._counts["sent"] += 1
        if refused:
            log(logging.WARNING, "otlp_refused", path=path, items=refused)
        return True

    async def _say_farewell(self) -> None:
        """Sends what came last."""
        while self._read():
            pass
        self._keep()
        await self._send(METRICS, self._metrics())
        while self._spans and await self._send_some():
            pass


def resource_of(config: Config) -> Attributes:
    """Who speaks, in OpenTelemetry's words."""
    return {
        "service.name": "interlock-gateway",
        "service.instance.id": (config.data / "gateway.id").read_text().strip(),
        "host.name": socket.gethostname(),
    }


def recall(state: Path) -> dict[str, Sequence[Any]] | None:
    """Where an earlier exporter was in the journals; None where none was, or where that cannot be read."""
    try:
        positions: dict[str, Sequence[Any]] = json.loads(state.read_text())
    except (OSError, ValueError):
        return None
    return positions


def _words(error: aio.AioRpcError | ValueError) -> str:
    return error.code().name if isinstance(error, aio.AioRpcError) else "the answer is no OTLP"
