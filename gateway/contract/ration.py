"""How many log lines of one kind are worth writing, and by which id an error of ours is told."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, NamedTuple

MINUTE_NS: Final = 60_000_000_000
MOST_LINES: Final = 10
"""Lines of one kind in a minute: enough to see what happens, too few to hide what else does."""
MOST_CAUSES: Final = 256
"""Causes of errors that are told apart; there are as many as there are lines of code that raise one."""


@dataclass(slots=True)
class _Bucket:
    begun_ns: int
    taken: int = 0
    left_out: int = 0


class Ration:
    """A bucket of lines for each kind, filled anew a minute after its first line; what finds it empty is counted."""

    def __init__(self, most: int = MOST_LINES, window_ns: int = MINUTE_NS) -> None:
        self._most = most
        self._window_ns = window_ns
        self._buckets: dict[Hashable, _Bucket] = {}

    def take(self, kind: Hashable, now_ns: int) -> bool:
        """Whether a line of this kind is written now."""
        bucket = self._buckets.setdefault(kind, _Bucket(now_ns))
        if now_ns >= bucket.begun_ns + self._window_ns:
            bucket.begun_ns, bucket.taken = now_ns, 0
        if bucket.taken >= self._most:
            bucket.left_out += 1
            return False
        bucket.taken += 1
        return True

    def settle(self, now_ns: int) -> dict[Hashable, int]:
        """How many lines were left out, by kind, of each bucket whose time is over. They are not told again."""
        over = {kind: b for kind, b in self._buckets.items() if now_ns >= b.begun_ns + self._window_ns}
        for kind in over:
            del self._buckets[kind]
        return {kind: bucket.left_out for kind, bucket in over.items() if bucket.left_out}


class Told(NamedTuple):
    """What a caller is told of an error, and whether the log has yet to be."""

    error_id: str
    fresh: bool
    """Whether the id is new, so that a line must be written under it."""


class ErrorIds:
    """Ids of errors such that the log has a line for every id that a caller was told.

    A cause that comes too often to be written each time is told by the id under which it was written last.
    """

    def __init__(self, make: Callable[[], str], ration: Ration | None = None) -> None:
        self._make = make
        self._ration = ration or Ration()
        self._last: dict[str, str] = {}

    def tell(self, cause: str, now_ns: int) -> Told:
        """The id for an error of this cause."""
        self._ration.settle(now_ns)
        last = self._last.get(cause)
        if not self._ration.take(cause, now_ns) and last is not None:
            return Told(last, fresh=False)
        if len(self._last) >= MOST_CAUSES:
            self._last.clear()
        self._last[cause] = error_id = self._make()
        return Told(error_id, fresh=True)


def cause_of(error: BaseException) -> str:
    """The type of an error and where it was raised, which is all that tells causes apart."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}"
    return f"{type(error).__name__}{where}"
