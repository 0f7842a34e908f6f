"""The event loop of a process that works until the supervisor ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any


def run_until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Runs the work, and cancels it on SIGTERM: what it must still do then stands in its `finally`."""
    asyncio.run(_run(work))


async def _run(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
