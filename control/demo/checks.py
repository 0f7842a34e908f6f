"""What must hold of callers' replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from control.demo.callers import Reply


def largest_difference(replies: Sequence[Reply], expected: Mapping[int, Mapping[str, float]]) -> float:
    """How far a score lies from the one expected of the version that answered; raises ValueError for a failed call."""
    for reply in replies:
        if reply.failure:
            raise ValueError(f"the call for {reply.key} failed: {reply.failure}")
        if reply.defaulted:
            raise ValueError(f"{reply.defaulted} features of {reply.key} were not in the online store")
    return max(abs(reply.score - expected[reply.version][reply.key]) for reply in replies)


def require_version(replies: Sequence[Reply], number: int, revisions: Mapping[int, int]) -> None:
    """Raises ValueError unless this version answered each, under a revision at which it was the champion.

    `revisions` are those that made each version the champion; versions were promoted in the order of their numbers.
    """
    first, later = revisions[number], revisions.get(number + 1, 1 << 63)
    wrong = [r for r in replies if not r.failure and (r.version != number or not first <= r.revision < later)]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(replies):,} replies are not of version {number}: the first for {wrong[0].key} "
            f"by version {wrong[0].version} under revision {wrong[0].revision}"
        )
