"""The versions that the mirror has loaded, for itself: a worker's are never touched."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from gateway.contract.errors import Fault
from gateway.servable import Servable, load
from gateway.telemetry import log
from gateway.wire.routes import ServedVersion

RETRY_NS: Final = 10_000_000_000
"""How long a version that failed to load is left alone, doubled at each failure."""
MOST_TIMES: Final = 5
"""Failures after which the pause grows no more."""


class Versions:
    """Loaded versions by digest."""

    def __init__(self, artifacts: Path) -> None:
        self._artifacts = artifacts
        self._loaded: dict[str, Servable] = {}
        self._failures: dict[str, tuple[int, int, str]] = {}
        """By digest: how often it failed, when to try again, and why."""

    def get(self, served: ServedVersion) -> Servable | None:
        """The version, if it is loaded."""
        return self._loaded.get(served.digest)

    def problem(self, served: ServedVersion) -> str:
        """Why it could not be loaded; empty where nothing is known against it."""
        return self._failures[served.digest][2] if served.digest in self._failures else ""

    def due(self, served: ServedVersion) -> bool:
        """Whether it is to be loaded now."""
        _, retry_ns, _ = self._failures.get(served.digest, (0, 0, ""))
        return served.digest not in self._loaded and time.monotonic_ns() >= retry_ns

    def load(self, served: ServedVersion) -> None:
        """Loads it, or notes why that failed."""
        name = f"{served.model}/{served.version}"
        try:
            self._loaded[served.digest] = load(served, self._artifacts)
        except Fault as fault:
            times = self._failures.get(served.digest, (0,))[0] + 1
            pause_ns = RETRY_NS << min(times - 1, MOST_TIMES)
            self._failures[served.digest] = times, time.monotonic_ns() + pause_ns, fault.message
            log(logging.ERROR, "load_failed", version=name, problem=fault.message, cause=repr(fault.__cause__))
        else:
            self._failures.pop(served.digest, None)
            log(logging.INFO, "loaded", version=name)

    def keep_only(self, digests: Collection[str]) -> None:
        """Lets go of all others."""
        for known in (self._loaded, self._failures):
            for digest in known.keys() - set(digests):
                del known[digest]
