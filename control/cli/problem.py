"""What can go wrong on this host before any server is asked; what servers refuse is in the catalogue of reasons."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What `interlock` exits with."""

    DONE = 0
    REFUSED = 1
    """A server said no, or something is unhealthy."""
    MISUSED = 2
    """The command line, a file or the configuration is wrong."""
    UNREACHABLE = 3
    """Nobody answered."""


class Problem(Exception):  # noqa: N818 - said to a person, who may not have erred
    """An expected failure of the command line itself: a reason, what was wrong and what to do, and the exit code."""

    def __init__(self, reason: str, message: str, exit_code: ExitCode = ExitCode.MISUSED) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.exit_code = exit_code
