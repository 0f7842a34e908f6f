"""What each model's requests were like in the last hour: how many, of how many entities, how many of them bad.

For forecasts, and to see that a champion decays which no canary is compared with. Pure and bounded: counts by the
minute, and of the entities a sample by their hash. It is not kept: an observer that begins anew begins a new hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.contract.population import population, seen_of
from gateway.evidence.count import BITS, FAILURES
from gateway.journal import ROLLOUT_REPEATED, ROW, Block
from gateway.request import Arm

SECOND_NS: Final = 1_000_000_000
MINUTE_NS: Final = 60 * SECOND_NS
MINUTES: Final = 60
RECENT: Final = 5
"""Minutes, the one that runs among them, that are told apart from the rest of the hour."""
MOST_MODELS: Final = 512
"""Models that are told of; those that were called first are forgotten first."""
MOST_ENTITIES: Final = 4096
"""Entities that are remembered of each model: the share of them that are is halved when they become more."""
FRESH_NS: Final = 5 * SECOND_NS
"""How long an answer is given again: what goes up need not change with every row."""
METRICS: Final = tuple(BITS)
FAILED: Final = METRICS.index("decisions")
"""Metrics before this one are of rows that nobody got an answer to."""
HIT: Final = 1 + FAILED
OTHER: Final = 255
"""In place of a metric: what counts for nothing."""


def _places() -> npt.NDArray[np.uint8]:
    """By a row's reason: 0 where it was answered, one more than the place of its metric, or OTHER."""
    places = np.full(OTHER + 1, OTHER, np.uint8)
    places[0] = 0
    for reason, bit in FAILURES.items():
        places[reason] = 1 + list(BITS.values()).index(bit)
    return places


PLACES: Final = _places()


class Traffic:
    """The last hour of every model."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._said: list[dict[str, Any]] = []
        self._said_ns = -FRESH_NS

    def add(self, blocks: Iterable[Block]) -> None:
        """Adds what was journalled, by the time at which it was."""
        groups: dict[tuple[str, int], list[Block]] = {}
        for block in blocks:
            groups.setdefault((block.model, block.time_ns // MINUTE_NS), []).append(block)
        for (name, minute), group in groups.items():
            rows = np.frombuffer(b"".join([block.rows.tobytes() for block in group]), ROW)
            places = PLACES[np.minimum(rows["reason"], OTHER)]
            counts = (rows["arm"] == Arm.CHAMPION) | (rows["arm"] == Arm.CHALLENGER)
            counts &= ((rows["rollout_flags"] & ROLLOUT_REPEATED) == 0) & (places != OTHER)
            if counts.any():
                # Columns, and not the rows themselves: choosing among structured rows takes ten times as long.
                places[(rows["decision"] == 0) & (places == 0)] = HIT
                hashes = rows["entity_hash"][counts]
                self._model(name, group[0].time_ns).add(minute, places[counts], hashes)

    def lately(self, now_ns: int) -> list[dict[str, Any]]:
        """By the names of the wire's ModelTraffic; the same again for some seconds."""
        if now_ns >= self._said_ns + FRESH_NS:
            for name, model in list(self._models.items()):
                model.forget(now_ns // MINUTE_NS - MINUTES)
                if model.silent:
                    del self._models[name]
            self._said = [{"model": name, **model.facts(now_ns)} for name, model in sorted(self._models.items())]
            self._said_ns = now_ns
        return self._said

    def _model(self, name: str, time_ns: int) -> _Model:
        found = self._models.get(name)
        if found is None:
            found = self._models[name] = _Model(time_ns)
            if len(self._models) > MOST_MODELS:
                del self._models[next(iter(self._models))]
        return found


class _Model:
    def __init__(self, began_ns: int) -> None:
        self._began_ns = began_ns
        self._minutes: deque[tuple[int, list[int]]] = deque()
        """By the minute: rows, bad ones by metric, and rows without an entity."""
        self._entities: dict[int, int] = {}
        """The last minute in which each entity of the sample called, by its hash."""
        self._limit = (1 << 64) - 1
        """Hashes up to here are sampled."""

    @property
    def silent(self) -> bool:
        return not self._minutes

    def add(self, minute: int, places: npt.NDArray[np.uint8], hashes: npt.NDArray[np.uint64]) -> None:
        bad = np.bincount(places, minlength=len(METRICS) + 1)[1:]
        fresh = [len(places), *bad.tolist(), int(np.count_nonzero(hashes == 0))]
        if not self._minutes or self._minutes[-1][0] < minute:
            self._minutes.append((minute, [0] * len(fresh)))
        # Workers' journals are read one after the other, so a row may come after those of the minute that followed it.
        counts = self._minutes[-1][1]
        counts[:] = [old + new for old, new in zip(counts, fresh, strict=True)]
        self._entities |= dict.fromkeys(hashes[(hashes != 0) & (hashes <= self._limit)].tolist(), minute)
        while len(self._entities) > MOST_ENTITIES:
            self._limit //= 2
            self._entities = {key: last for key, last in self._entities.items() if key <= self._limit}

    def forget(self, minute: int) -> None:
        """Forgets what was up to a minute."""
        while self._minutes and self._minutes[0][0] <= minute:
            self._minutes.popleft()
        if self._minutes:
            self._entities = {key: last for key, last in self._entities.items() if last > minute}

    def facts(self, now_ns: int) -> dict[str, Any]:
        recent_from = now_ns // MINUTE_NS - RECENT + 1
        recent = self._sum(counts for minute, counts in self._minutes if minute >= recent_from)
        earlier = self._sum(counts for minute, counts in self._minutes if minute < recent_from)
        rows, *bad, nameless = (new + old for new, old in zip(recent, earlier, strict=True))
        seconds = min(max(now_ns - self._began_ns, SECOND_NS) / SECOND_NS, MINUTES * 60.0)
        per_s = rows / seconds
        return {
            "rows_per_s": rounded(per_s),
            "entities_per_hour": rounded(self._entities_per_hour(rows - nameless, seconds) + nameless / seconds * 3600),
            "bad_rates": {metric: rounded(n / rows) for metric, n in zip(METRICS, bad, strict=True) if n},
            "recent_rows": recent[0],
            "recent_failed": sum(recent[1 : 1 + FAILED]),
            "earlier_rows": earlier[0],
            "earlier_failed": sum(earlier[1 : 1 + FAILED]),
        }

    def _sum(self, minutes: Iterable[list[int]]) -> list[int]:
        return [sum(column) for column in zip([0] * (len(METRICS) + 2), *minutes, strict=True)]

    def _entities_per_hour(self, rows: int, seconds: float) -> float:
        """How many an hour of such calls would reach: those of a shorter time reached fewer."""
        seen = len(self._entities) * (1 << 64) / (self._limit + 1)
        return seen_of(population(rows, min(seen, rows)), rows / seconds * 3600)


def rounded(value: float) -> float:
    """To two significant digits."""
    return float(f"{value:.2g}")
