"""Who may answer under which revision, by the audit trail: a revision is the number of the entry that made it."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from control.demo.callers import Reply


class Entry(NamedTuple):
    """An audit entry about a version."""

    number: int
    action: str
    version: int
    details: dict[str, Any]


class Standing(NamedTuple):
    """Who answers from a revision on; without a rollout nobody is on trial."""

    revision: int
    champion: int
    challenger: int = 0
    control: int = 0
    """The version that the one on trial is compared with, and that answers where that one fails."""

    def may_answer(self, reply: Reply) -> bool:
        """Whether the version that answered is one that this revision names for it."""
        if reply.challenged:
            return bool(self.challenger) and reply.version in (self.challenger, self.control)
        # While nobody watches the rollout, it is not followed: then the champion answers all.
        return reply.version in (self.control, self.champion)


def entry(number: int, action: str, subject: str, details_json: str) -> Entry:
    """An entry as the audit trail has it."""
    return Entry(number, action, int(subject.rpartition("/")[2]), json.loads(details_json))


def standings(entries: Iterable[Entry]) -> list[Standing]:
    """The trail of one model, in the order of its numbers, as who answers from when on."""
    found = [Standing(0, 0)]
    for item in sorted(entries):
        changed = _after(item, found[-1])
        if changed[1:] != found[-1][1:]:
            found.append(changed)
    return found


def standing(found: Sequence[Standing], revision: int) -> Standing:
    """Who answers under a revision."""
    return found[bisect_right(found, revision, key=lambda one: one.revision) - 1]


def _after(item: Entry, before: Standing) -> Standing:
    control = before.control or before.champion
    match item.action:
        case "version.promote":
            return Standing(item.number, item.version)
        case "rollout.start" | "rollout.advance":
            return _during(item, before.champion, control)
        case "rollout.roll_back" | "rollout.quarantine":
            return Standing(item.number, control)
        case "rollout.supersede":
            return Standing(item.number, before.champion)
        case _:
            return before


def _during(item: Entry, champion: int, control: int) -> Standing:
    """A rollout that began, or moved on."""
    match item.details["phase"], item.details.get("outcome"):
        case _, "promoted":
            return Standing(item.number, item.version)
        case "holdback", _:
            return Standing(item.number, item.version, item.version, control)
        case "canary", _:
            return Standing(item.number, champion, item.version, champion)
        case _:
            return Standing(item.number, champion)
