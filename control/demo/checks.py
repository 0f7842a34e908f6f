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
        if reply.version not in expected:
            raise ValueError(f"version {reply.version} answered for {reply.key}, and nobody promoted it")
    return max(abs(reply.score - expected[reply.version][reply.key]) for reply in replies)


def require_version(replies: Sequence[Reply], number: int, revisions: Mapping[int, int]) -> None:
    """Raises ValueError unless this version answered each, under a revision that names it."""
    require_named_version(replies, revisions)
    _refuse([reply for reply in replies if reply.version != number], len(replies), f"version {number} should have")


def require_named_version(replies: Sequence[Reply], revisions: Mapping[int, int]) -> None:
    """Raises ValueError unless each was answered by the version that its revision names.

    `revisions` are those that made each version the champion; versions were promoted in the order of their numbers.
    """
    wrong = [reply for reply in replies if reply.version != _champion(reply.revision, revisions)]
    _refuse(wrong, len(replies), "which that revision does not name")


def _champion(revision: int, revisions: Mapping[int, int]) -> int | None:
    return max((number for number, since in revisions.items() if since <= revision), default=None)


def _refuse(wrong: Sequence[Reply], of: int, why: str) -> None:
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{len(wrong)} of {of:,} replies are wrong: the first, for {first.key}, "
            f"by version {first.version} under revision {first.revision}; {why}"
        )
