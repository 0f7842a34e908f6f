"""What the log says of calls that failed: by reason, model and version, from what the observer has added up anyway."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from gateway.contract.errors import CATALOGUE, Code
from gateway.contract.ration import Ration
from gateway.journal import Block

OURS: Final = frozenset(str(reason) for reason, entry in CATALOGUE.items() if entry.code is Code.INTERNAL)
"""Reasons that say that something is broken here, and not that a caller asked wrongly or at a bad time."""


class Failed(NamedTuple):
    """Which calls: `worker` is for those that never reached the journal, and -1 for all others."""

    reason: str
    model: str = ""
    version: int = 0
    worker: int = -1


class Line(NamedTuple):
    """A line to write."""

    level: int
    facts: Mapping[str, str | int]


class Failures:
    """Turns growing counts into lines: a ration for each reason, and what it leaves out waits for the next line.

    `told` are counts that need no line: those of an earlier life.
    """

    def __init__(self, told: Mapping[Failed, int], ration: Ration | None = None) -> None:
        self._told = dict(told)
        self._ration = ration or Ration()
        self._examples: dict[Failed, str] = {}

    def note(self, blocks: Iterable[Block]) -> None:
        """Keeps an example of what callers were told, or of what the log must say in its place."""
        for block in blocks:
            if block.notes:
                for reason, example in json.loads(block.notes).get("faults", {}).items():
                    self._examples[Failed(reason, block.model, block.version)] = example

    def lines(self, counts: Mapping[Failed, int], now_ns: int) -> list[Line]:
        """What to write now: first of those with the most failures since their last line."""
        self._ration.settle(now_ns)
        grown = {failed: count - self._base(failed, count) for failed, count in counts.items()}
        found = []
        for failed, rows in sorted(grown.items(), key=lambda item: -item[1]):
            if rows and self._ration.take(failed.reason, now_ns):
                self._told[failed] = counts[failed]
                found.append(
                    Line(
                        logging.ERROR if failed.reason in OURS else logging.WARNING,
                        _facts(failed, rows, self._examples.pop(failed, "")),
                    )
                )
        self._told = {failed: told for failed, told in self._told.items() if failed in counts}
        self._examples = {failed: said for failed, said in self._examples.items() if failed in counts}
        return found

    def _base(self, failed: Failed, count: int) -> int:
        told = self._told.get(failed, 0)
        return told if told <= count else 0  # whoever counts has begun anew


def _facts(failed: Failed, rows: int, example: str) -> dict[str, str | int]:
    facts: dict[str, str | int] = {"reason": failed.reason, "rows": rows}
    if failed.model:
        facts |= {"model": failed.model, "version": failed.version}
    if failed.worker >= 0:
        facts["worker"] = failed.worker
    return facts | ({"example": example} if example else {})
