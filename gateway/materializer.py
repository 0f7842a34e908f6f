"""The materializer: the only process that writes the online store. It applies the feature log, batch by batch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Final

from gateway.board import Board
from gateway.config import Config
from gateway.contract.alerts import Alert, AlertText, alert
from gateway.contract.errors import Fault
from gateway.features.writer import Batch, OnlineWriter, StoreError, StoreFull
from gateway.loop import run_until_terminated
from gateway.telemetry import log
from gateway.uplink import Lost, feature_batches, pause_s

AHEAD: Final = 8
"""Batches read while others are being applied; so many share one commit, and its fsync, at most."""
BEAT_S: Final = 0.5
SETTLED_NS: Final = 1_000_000_000
"""A stream that has lasted so long is connected, though no batch may come for days."""

Item = tuple[str, Batch] | Exception


def run(config: Config) -> None:
    """Works until SIGTERM; what is being committed then is committed."""
    run_until_terminated(Materializer(config).work())


class Materializer:
    """Keeps the online store in step with the feature log. Whatever goes wrong is a problem to show, and to retry."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._board = Board(config.run_path / "materializer.board")
        self._writer: OnlineWriter | None = None
        self._sequence = 0
        self._history_id = ""
        self._problem: AlertText | None = None
        self._attempt = 0
        self._streaming_ns = 0

    async def work(self) -> None:
        """Follows the feature log for ever, over one connection after the other."""
        beat = asyncio.create_task(self._beat())
        try:
            while True:
                self._problem = describe(await self._attempt_to_follow())
                self._streaming_ns = 0
                self._attempt += 1
                self._say()
                await asyncio.sleep(pause_s(self._attempt))
        finally:
            beat.cancel()

    async def _attempt_to_follow(self) -> Exception:
        """Follows the log over one connection, and returns what ended it."""
        try:
            writer = await asyncio.to_thread(self._open)
            return await self._follow(writer)
        except (Fault, ValueError) as error:
            return error
        except (StoreError, OSError) as error:
            if self._writer is not None:
                self._writer.close()  # a store that failed is opened anew: a panic lasts as long as its environment
                self._writer = None
            return error

    def _open(self) -> OnlineWriter:
        if self._writer is None:
            self._writer = OnlineWriter(self.config.features_path, self.config.map_bytes)
        self._sequence, self._history_id = self._writer.sequence, self._writer.history_id
        return self._writer

    async def _follow(self, writer: OnlineWriter) -> Exception:
        items: asyncio.Queue[Item] = asyncio.Queue(AHEAD)
        reading = asyncio.create_task(self._read(items))
        try:
            while True:
                found, end = take(await items.get(), items)
                if found:
                    await asyncio.to_thread(apply, writer, found)
                    self._sequence, self._history_id = writer.sequence, writer.history_id
                    self._problem, self._attempt = None, 0
                    self._say()
                if end is not None:
                    return end
        finally:
            reading.cancel()

    async def _read(self, items: asyncio.Queue[Item]) -> None:
        """Reads ahead; the last item is what ended the stream."""
        self._streaming_ns = time.monotonic_ns()
        try:
            async for history_id, batch in feature_batches(self.config, self._sequence + 1, self._history_id):
                await items.put((history_id, batch))
        except Exception as error:  # whatever it is, it ends this stream and no other
            await items.put(error)

    async def _beat(self) -> None:
        while True:
            settled = self._streaming_ns and time.monotonic_ns() > self._streaming_ns + SETTLED_NS
            if settled:
                self._problem, self._attempt = None, 0
            self._say()
            await asyncio.sleep(BEAT_S)

    def _say(self) -> None:
        self._board.write(
            {
                "pid": os.getpid(),
                "sequence": self._sequence,
                "history_id": self._history_id,
                "connected": bool(self._streaming_ns) and not self._problem,
                "problems": [self._problem] if self._problem else [],
                "heartbeat_ns": time.monotonic_ns(),
            }
        )


def take(first: Item, items: asyncio.Queue[Item]) -> tuple[list[tuple[str, Batch]], Exception | None]:
    """The batches that have come so far, each with its history, and what ended the stream, if it ended."""
    found: list[tuple[str, Batch]] = []
    item: Item | None = first
    while item is not None:
        if isinstance(item, Exception):
            return found, item
        found.append(item)
        item = None if items.empty() else items.get_nowait()
    return found, None


def apply(writer: OnlineWriter, found: list[tuple[str, Batch]]) -> None:
    """Applies the batches in one commit; where one of them is bad, those before it one by one."""
    histories = {history_id for history_id, _ in found}
    if len(histories) == 1:
        with contextlib.suppress(ValueError):  # said again below, by the batch that is bad
            writer.apply_all([batch for _, batch in found], *histories)
            return
    for history_id, batch in found:
        writer.apply(batch, history_id)


def describe(error: Exception) -> AlertText:
    """What is wrong, in words that name no path, and what to do."""
    match error:
        case StoreFull():
            return alert(Alert.ONLINE_STORE_FULL, "stop the gateway and raise gateway.map_bytes")
        case Lost():
            return alert(Alert.FEATURE_LOG_UNREACHABLE, str(error))
        case Fault() | ValueError():
            return alert(Alert.FEATURE_BATCH_REFUSED, str(error))
        case _:
            log(logging.ERROR, "materializer_failed", error=repr(error))
            words = f"the online store cannot be written ({type(error).__name__}); the gateway's log has the cause"
            return alert(Alert.ONLINE_STORE_FAILED, words)
