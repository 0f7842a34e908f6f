"""A watch that ends what takes too long, from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Endable(Protocol):
    """Something under way that ends soon after it is told to."""

    terminate: bool


class Watch:
    """Watches one thing at a time. Its thread begins with the first thing, and sleeps while there is none."""

    def __init__(self) -> None:
        self._set = threading.Condition()
        self._watched: tuple[int, Endable] | None = None
        self._thread: threading.Thread | None = None

    @contextmanager
    def until(self, due_ns: int, watched: Endable) -> Iterator[None]:
        """Ends `watched` when the block lasts beyond a monotonic time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
            self._thread.start()
        with self._set:
            self._watched = due_ns, watched
            self._set.notify()
        try:
            yield
        finally:
            self._watched = None

    def _work(self) -> None:
        while True:
            with self._set:
                watched = self._watched
                left_ns = watched[0] - time.monotonic_ns() if watched else None
                if left_ns is None or left_ns > 0:
                    self._set.wait(None if left_ns is None else left_ns / 1e9)
                    continue
            if watched is not None and self._watched is watched:
                watched[1].terminate = True
                self._watched = None
