"""Log lines: one JSON object each, on standard error, at most a ration of each kind.

A token or a request's content never goes into one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Hashable
from typing import Final, TextIO

from gateway.contract.ration import Ration

LOG: Final = logging.getLogger("interlock.control")


class JsonLines(logging.Formatter):
    """Writes time, level, event and the facts given as `extra={"facts": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback becomes a field of it."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": "control",
            "event": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class RationedLines(logging.StreamHandler[TextIO]):
    """Writes warnings and errors as far as the ration of their event and reason goes; then how many it left out.

    The rest is as rare as what it tells of, and an operator misses it when it is not there.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JsonLines())
        self._ration = Ration()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line, or counts it; the logging module calls this under the handler's lock."""
        now_ns = time.monotonic_ns()
        self._tell(self._ration.settle(now_ns))
        free = record.levelno < logging.WARNING or getattr(record, "rationed", False)
        if free or self._ration.take(_kind(record), now_ns):
            super().emit(record)

    def close(self) -> None:
        """Says what was left out so far."""
        self._tell(self._ration.settle(1 << 62))
        super().close()

    def _tell(self, left_out: dict[Hashable, int]) -> None:
        for kind, count in left_out.items():
            record = LOG.makeRecord(LOG.name, logging.WARNING, "", 0, "suppressed", (), None)
            record.facts = {"of": kind, "lines": count}
            super().emit(record)


def _kind(record: logging.LogRecord) -> str:
    reason = getattr(record, "facts", {}).get("reason", "")
    return f"{record.getMessage()} {reason}".rstrip()


def start_logging(level: str) -> None:
    """Sends the log lines of this process to standard error."""
    LOG.handlers[:] = [RationedLines(sys.stderr)]
    LOG.setLevel(level.upper())
    LOG.propagate = False


def log(level: int, event: str, **facts: object) -> None:
    """Writes one line."""
    LOG.log(level, event, extra={"facts": facts})


def log_error(event: str, error: BaseException, **facts: object) -> None:
    """Writes an error of ours with its traceback, whatever the ration says: its id was told to a caller."""
    LOG.error(event, exc_info=error, extra={"facts": facts, "rationed": True})
