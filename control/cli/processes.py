"""Services as child processes: started, waited for, and ended in order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self, TypeVar

from control.cli.problem import ExitCode, Problem

T = TypeVar("T")

POLL_S: Final = 0.05
PATIENCE_S: Final = 30.0
"""Seconds that a service gets to drain; it ends itself much sooner unless it hangs."""
PR_SET_PDEATHSIG: Final = 1
LIBC: Final = ctypes.CDLL(None, use_errno=True)


def service_command(name: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a service: a module found by name, so that this one need not import it."""
    return [sys.executable, "-m", name, *arguments]


def service_environment() -> dict[str, str]:
    """Ours, and no module is taken from the working directory: a folder called control must not become the service."""
    return os.environ | {"PYTHONSAFEPATH": "1"}


class Stopped(Exception):  # noqa: N818 - somebody wanted it
    """SIGINT or SIGTERM came."""


class Service:
    """One service of an installation, in a process of its own."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        # Of its own session, so that Ctrl-C reaches this process alone, which then ends the services in order.
        self._process = subprocess.Popen(
            service_command(name, arguments),
            env=service_environment(),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            preexec_fn=_end_with_the_parent,  # noqa: PLW1509 - it makes one system call, and no thread runs yet
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def how_it_ended(self) -> str | None:
        """How the process ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def end(self) -> None:
        """Drains the service; kills what hangs, with every process that it started."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


class Watch:
    """Waits while services run, until one of them ends or somebody wants to stop."""

    def __init__(self) -> None:
        self._services: list[Service] = []
        self._stopping = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Takes SIGINT and SIGTERM as the wish to stop, which `until` and `forever` notice."""
        former = {number: signal.signal(number, self._wanted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def add(self, service: Service) -> Service:
        """Notices from now on when this service ends."""
        self._services.append(service)
        return service

    def until(self, look: Callable[[], T | None], what: str, patience_s: float) -> T:
        """Looks until there is something; raises Problem when a service ends first, or when it takes too long."""
        deadline = time.monotonic() + patience_s
        while (found := look()) is None:
            self._check()
            if time.monotonic() > deadline:
                raise Problem("NOT_STARTED", f"{what} is not ready after {patience_s:g} s", ExitCode.REFUSED)
            time.sleep(POLL_S)
        return found

    def forever(self) -> None:
        """Returns never: raises Stopped when somebody wants to stop, Problem when a service ends."""
        while True:
            self._check()
            time.sleep(4 * POLL_S)

    def _check(self) -> None:
        if self._stopping:
            raise Stopped
        for service in self._services:
            if how := service.how_it_ended():
                raise Problem("SERVICE_ENDED", f"the {service.name} service ended {how}", ExitCode.REFUSED)

    def _wanted(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what a handler takes
        self._stopping = True  # no more than that: a lock taken here might be held already


def _end_with_the_parent() -> None:
    """A killed parent can end nobody: the kernel then asks the child to drain."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
