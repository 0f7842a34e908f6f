"""How events become evidence: which row of an entity counts, and once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.contract.evidence import Arms, Counts, counted


class Tally:
    """Counts per name, each unit once per name: the rule on which all evidence stands.

    To roll back, give it bad rows only, and keep it for the whole rollout: an entity counts with its first bad event.
    To advance, give it every scored row under one name per step, and add the row to the bad ones only where it was
    counted: an entity counts with its first scored row, bad or not. `unit` is the entity's keyed hash, or, where each
    request is drawn anew, the prediction id. Over several gateways one tally must stand; sums of theirs would count an
    entity that reaches two of them twice.
    """

    def __init__(self, seen: Iterable[tuple[str, bytes]] = (), counts: Mapping[str, Counts] | None = None) -> None:
        self._seen = set(seen)
        self.counts: dict[str, Counts] = dict(counts or {})

    def count(self, name: str, unit: bytes, weight_bps: int, challenger: bool) -> bool:
        """Counts the event unless the unit has one under that name; whether it did."""
        if (name, unit) in self._seen:
            return False
        self._seen.add((name, unit))
        self.add(name, weight_bps, challenger)
        return True

    def add(self, name: str, weight_bps: int, challenger: bool) -> None:
        """Counts an event of a unit that is known to be new."""
        arms = Arms(1, 0) if challenger else Arms(0, 1)
        self.counts[name] = counted(self.counts.get(name, {}), weight_bps, arms)
