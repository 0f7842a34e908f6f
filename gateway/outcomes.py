"""RecordOutcomes: many calls, one fsync, on a thread of its own, so that no score ever waits for the disk.

The event loop only puts the bytes of a call into a queue. The thread takes all that wait, reads them, appends their
rows to the outcome log, and has the loop answer them when they are on the disk; what comes meanwhile is its next turn.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from gateway.assignment import Snapshot
from gateway.contract.alerts import Alert, AlertText, alert
from gateway.contract.errors import Fault, Reason
from gateway.outcome_log import OutcomeLog
from gateway.telemetry import log
from gateway.transport import Reply
from gateway.wire.outcomes import METHOD, Rows, read
from gateway.wire.status import internal, refusal

MAX_WAITING: Final = 64
"""Calls that may wait for the disk in one worker; at 256 rows each they are one turn of some tens of milliseconds."""
RETRY_AFTER_MS: Final = "100"
SWITCH_S: Final = 0.0005
OVERLOADED: Final = Fault(
    Reason.OVERLOADED,
    f"{MAX_WAITING} calls with outcomes wait for this worker's disk; come back after {RETRY_AFTER_MS} ms",
    retry_after_ms=RETRY_AFTER_MS,
)


class Served(Protocol):
    """Where the entity of a model is looked up."""

    @property
    def snapshot(self) -> Snapshot:
        """What is served now."""


class _Waiting(NamedTuple):
    """A call that waits for the disk."""

    request: bytes
    reply: asyncio.Future[Reply]


class Outcomes:
    """Answers RecordOutcomes. Made and called on the event loop."""

    def __init__(self, outcome_log: OutcomeLog, served: Served, max_message_bytes: int) -> None:
        self._log = outcome_log
        self._served = served
        self._max_message_bytes = max_message_bytes
        self._waiting = 0
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        # The loop wants the interpreter as soon as a call comes; by default this thread could keep it for 5 ms.
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._work, daemon=True, name="outcomes")
        self._thread.start()

    @property
    def problem(self) -> AlertText | None:
        """Why the last outcomes were not kept; empty where they were."""
        return alert(Alert.OUTCOME_LOG_FAILED, self._log.problem) if self._log.problem else None

    def methods(self) -> dict[str, Callable[[bytes], Reply | Awaitable[Reply]]]:
        """The call by its full name. It does not raise."""
        return {METHOD: self.record}

    def record(self, request: bytes) -> Reply | Awaitable[Reply]:
        """Takes a call; answered when its rows are on the disk."""
        if len(request) > self._max_message_bytes:
            message = f"the message has {len(request)} bytes; this gateway takes {self._max_message_bytes}"
            return refusal(Fault(Reason.MESSAGE_TOO_LARGE, f"{message} (gateway.max_message_bytes); send fewer rows"))
        if self._waiting >= MAX_WAITING:
            return refusal(OVERLOADED)
        self._waiting += 1
        waiting = _Waiting(request, self._loop.create_future())
        self._queue.put(waiting)
        return waiting.reply

    def close(self) -> None:
        """Finishes what waits, and ends the thread. Nobody is answered any more."""
        self._queue.put(None)
        self._thread.join()
        self._log.close()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            calls = [first]
            while len(calls) < MAX_WAITING and not self._queue.empty():
                if (item := self._queue.get()) is None:
                    self._queue.put(None)
                    break
                calls.append(item)
            replies = self._keep([call.request for call in calls])
            self._loop.call_soon_threadsafe(self._answer, calls, replies)

    def _answer(self, calls: Sequence[_Waiting], replies: Sequence[Reply]) -> None:
        self._waiting -= len(calls)
        for call, reply in zip(calls, replies, strict=True):
            if not call.reply.done():  # the caller may have gone away meanwhile
                call.reply.set_result(reply)

    def _keep(self, requests: Sequence[bytes]) -> list[Reply]:
        """Reads the calls, keeps their rows, and says what became of each. Never raises."""
        now_ns = time.time_ns()
        parsed = [self._read(request, now_ns) for request in requests]
        records = [record for rows in parsed if isinstance(rows, Rows) for record in rows.records]
        try:
            if records:
                self._log.append(records)
        except Exception as error:  # a fault of ours must not end the thread
            fault = error if isinstance(error, Fault) else internal(error)
            log(logging.ERROR, "outcomes_not_kept", why=fault.message, rows=len(records))
            kept = refusal(fault)
            return [kept if isinstance(rows, Rows) else rows for rows in parsed]
        return [Reply(rows.reply()) if isinstance(rows, Rows) else rows for rows in parsed]

    def _read(self, request: bytes, now_ns: int) -> Rows | Reply:
        try:
            return read(request, now_ns, self._assigning)
        except Fault as fault:
            return refusal(fault)
        except Exception as error:  # likewise
            return refusal(internal(error))

    def _assigning(self, model: str) -> str | None:
        route = self._served.snapshot.routes.get(model)
        if route is None:
            return None
        if route.servable.assign_by is None:
            raise Fault(
                Reason.ENTITY_MISMATCH, f"model {model} takes no entity; report its outcomes by `prediction_id`"
            )
        return route.servable.assign_by
