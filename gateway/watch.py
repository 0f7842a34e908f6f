"""A watch that ends what takes too long, from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

NEVER_NS: Final = 1 << 63


class Endable(Protocol):
    """Something under way that ends soon after it is told to."""

    terminate: bool


class Watch:
    """Watches one thing at a time. Its thread begins with the first thing, and sleeps while there is none."""

    def __init__(self) -> None:
        self._set = threading.Condition()
        self._watched: tuple[int, Endable] | None = None
        self._wakes_ns = NEVER_NS
        """When the thread looks again by itself."""
        self._thread: threading.Thread | None = None

    @contextmanager
    def until(self, due_ns: int, watched: Endable) -> Iterator[None]:
        """Ends `watched` when the block lasts beyond a monotonic time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
            self._thread.start()
        with self._set:
            self._watched = due_ns, watched
            if due_ns < self._wakes_ns:  # waking a thread costs as much as a small run
                self._set.notify()
        try:
            yield
        finally:
            with self._set:
                self._watched = None

    def _work(self) -> None:
        with self._set:
            while True:
                watched = self._watched
                left_ns = watched[0] - time.monotonic_ns() if watched else NEVER_NS
                if watched is None or left_ns > 0:
                    self._wakes_ns = watched[0] if watched else NEVER_NS
                    self._set.wait(left_ns / 1e9 if watched else None)
                elif self._watched is watched:
                    watched[1].terminate = True
                    self._watched = None
