"""Log lines: one JSON object each, on standard error. A token or a request's content never goes into one."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

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


def start_logging(level: str) -> None:
    """Sends the log lines of this process to standard error."""
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(JsonLines())
    LOG.handlers[:] = [stderr]
    LOG.setLevel(level.upper())
    LOG.propagate = False


def log(level: int, event: str, **facts: object) -> None:
    """Writes one line."""
    LOG.log(level, event, extra={"facts": facts})
