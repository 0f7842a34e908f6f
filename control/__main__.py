"""Starts the control plane: `python -m control --data DIRECTORY --address HOST:PORT`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from control.config import config_from_flags
from control.server import ControlPlane, exclusive
from control.telemetry import start_logging
from gateway.contract.errors import Fault
from gateway.contract.schema import explain

REFUSED: Final = 2
STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
OVERDUE_S: Final = 5.0
"""How long after the drain a stuck call may hold the process."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT and returns the exit code; a second signal ends the process at once."""
    try:
        config = config_from_flags(arguments)
        start_logging(config.log_level)
        with exclusive(config.data, config.lock_path):
            stop_asked = _listen_for_signals()
            plane = ControlPlane(config)
            os.read(stop_asked, 1)
            for number in STOPPING:
                signal.signal(number, signal.SIG_DFL)
            _exit_anyway_after(config.drain_ms / 1000 + OVERDUE_S)
            plane.stop()
    except ValidationError as error:
        return _refuse(explain(error))
    except Fault as fault:
        return _refuse(fault.message)
    except (ValueError, OSError) as error:
        return _refuse(str(error))
    return 0


def _refuse(message: str) -> int:
    print(f"interlock control: {message}", file=sys.stderr)
    return REFUSED


def _listen_for_signals() -> int:
    """A descriptor that becomes readable once the process is asked to stop.

    The interpreter's own C code writes to it: a signal that comes just before a blocking call would else go unseen.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in STOPPING:
        signal.signal(number, lambda *_: None)
    return readable


def _exit_anyway_after(seconds: float) -> None:
    watchdog = threading.Timer(seconds, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()


if __name__ == "__main__":
    sys.exit(main())
