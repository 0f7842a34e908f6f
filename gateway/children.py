"""The supervisor's children: started by spawning, watched, and started again when they die."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gateway.contract.alerts import Alert, AlertText, alert
from gateway.telemetry import log

MEMORY_NS: Final = 60_000_000_000
"""How long a death counts against a child."""
LOOP: Final = 3
"""Deaths within that time that are called a crash loop."""
FIRST_DELAY_NS: Final = 100_000_000
LONGEST_DELAY_NS: Final = 5_000_000_000


def delay_ns(deaths: int) -> int:
    """How long to wait before the next start, by recent deaths: none after the first, then doubling."""
    return 0 if deaths <= 1 else min(FIRST_DELAY_NS << (deaths - 2), LONGEST_DELAY_NS)


class Child:
    """One process of the gateway. It is never given up on: only the pauses between starts grow."""

    def __init__(
        self,
        role: Sequence[str],
        settings: str,
        run_path: Path,
        held: int,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self.name = "-".join(role)
        self.restarts = 0
        self.problem: AlertText | None = None
        self._role = role
        self._settings = settings
        self._board = run_path / f"{self.name}.board"
        self._held = held
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths: list[int] = []
        self._due_ns = 0

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return 0 if self._process is None else self._process.pid

    def tend(self) -> None:
        """Notices its death, and starts it when that is due."""
        now_ns = time.monotonic_ns()
        if self.reap():
            self._deaths = [at for at in self._deaths if at > now_ns - MEMORY_NS]
            self._due_ns = now_ns + delay_ns(len(self._deaths))
        if self._deaths and self._deaths[-1] <= now_ns - MEMORY_NS:
            self._deaths, self.problem = [], None
        if self._process is None and now_ns >= self._due_ns:
            self._start()

    def reap(self) -> bool:
        """Whether it has died since the last look."""
        code = None if self._process is None else self._process.poll()
        if self._process is None or code is None:
            return False
        level = logging.WARNING if code else logging.INFO
        log(level, "process_ended", role=self.name, pid=self._process.pid, how=_how(code))
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process = None
        if self.name != "observer":  # its figures stay true; what others said of themselves does not
            self._board.unlink(missing_ok=True)
        self._count_death(_how(code))
        if self._on_end is not None:
            self._on_end(_how(code))
        return True

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def _start(self) -> None:
        self.restarts += bool(self._deaths)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *self._role],
                stdin=subprocess.PIPE,
                env=child_environment(),
                pass_fds=[self._held],
                process_group=0,
            )
            assert self._process.stdin is not None
            self._process.stdin.write(self._settings.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            log(logging.ERROR, "process_not_started", role=self.name, why=os.strerror(error.errno or 0))
            if self._process is None:
                self._count_death("could not be started")
                self._due_ns = time.monotonic_ns() + LONGEST_DELAY_NS

    def _count_death(self, how: str) -> None:
        self._deaths.append(time.monotonic_ns())
        recent = len(self._deaths)
        if recent >= LOOP:
            words = f"{self.name} ended {recent} times within a minute, the last time {how}"
            self.problem = alert(Alert.CRASH_LOOP, words)
            log(logging.ERROR, "crash_loop", role=self.name, deaths=recent, how=how)


def child_environment() -> dict[str, str]:
    """The environment of a child: its settings come on standard input, so no file or variable may add to them."""
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith("INTERLOCK_GATEWAY_")}
    # The core's own lines are not ours to explain: one tells of each listener that a draining worker closes.
    kept.setdefault("GRPC_VERBOSITY", "NONE")
    # One thread per process does the arithmetic; numpy's own would only take memory.
    return kept | {"INTERLOCK_CONFIG": os.devnull, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"
