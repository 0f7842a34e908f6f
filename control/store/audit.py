"""The audit chain: every entry hashes the one before it, so that a changed past shows. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One entry of the trail."""

    sequence: int
    time_ns: int
    actor: str
    action: str
    subject: str
    details_json: str
    previous_hash: str
    hash: str


class Head(NamedTuple):
    """Where the trail ends, and in which history it began."""

    history_id: str
    sequence: int
    hash: str


class Verification(NamedTuple):
    """What was found: `first_bad` is 0 where every entry is as it was written."""

    entries: int
    first_bad: int
    problem: str


def canonical_json(value: Mapping[str, Any]) -> str:
    """The one JSON text of a value: keys sorted, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def genesis(history_id: str) -> str:
    """The hash before the first entry: it ties the trail to its history."""
    return hashlib.sha256(f"interlock audit trail of {history_id}".encode()).hexdigest()


def chain(previous_hash: str, entry: Entry) -> str:
    """The hash of an entry that follows `previous_hash`, over every field of it but the hashes."""
    fields = entry._asdict()
    del fields["previous_hash"], fields["hash"]
    return hashlib.sha256((previous_hash + canonical_json(fields)).encode()).hexdigest()


def append(head: Head, entry: Entry) -> Entry:
    """The entry with its number and hashes, as it follows the head; what it says of them before is ignored."""
    numbered = entry._replace(sequence=head.sequence + 1, previous_hash=head.hash)
    return numbered._replace(hash=chain(head.hash, numbered))


def verify(entries: Iterable[Entry], head: Head) -> Verification:
    """Recomputes the chain from its beginning to its head and names the first entry that does not fit."""
    previous, count = genesis(head.history_id), 0
    for count, entry in enumerate(entries, start=1):
        if entry.sequence != count:
            return Verification(count, count, f"entry {count} is missing: {entry.sequence} stands in its place")
        if entry.previous_hash != previous:
            return Verification(count, count, f"entry {count} does not follow the entry before it")
        if entry.hash != chain(previous, entry):
            return Verification(count, count, f"entry {count} is not what was written: its hash differs")
        previous = entry.hash
    if count != head.sequence:
        first = min(count, head.sequence) + 1
        return Verification(count, first, f"the trail has {count} entries, its head says {head.sequence}")
    if previous != head.hash:
        return Verification(count, max(count, 1), "the hash of the last entry is not the one that the head keeps")
    return Verification(count, 0, "")
