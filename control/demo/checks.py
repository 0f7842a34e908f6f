"""What must hold of callers' replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from control.demo.callers import Reply
from control.demo.trail import Standing, standing


def require_no_failure(replies: Sequence[Reply]) -> None:
    """Raises ValueError where a call failed."""
    if failed := [reply for reply in replies if reply.failure]:
        raise ValueError(f"{len(failed)} of {len(replies):,} calls failed, the first with {failed[0].failure}")


def largest_difference(replies: Sequence[Reply], expected: Mapping[int, Mapping[str, float]]) -> float:
    """How far a score lies from the one expected of the version that answered; raises ValueError for none."""
    require_no_failure(replies)
    for reply in replies:
        if reply.defaulted:
            raise ValueError(f"{reply.defaulted} features of {reply.key} were not in the online store")
        if reply.version not in expected:
            raise ValueError(f"version {reply.version} answered for {reply.key}, and nobody promoted it")
        if reply.key not in expected[reply.version]:
            raise ValueError(f"version {reply.version} answered for {reply.key}, for whom scikit-learn fails")
    return max(abs(reply.score - expected[reply.version][reply.key]) for reply in replies)


def require_version(replies: Sequence[Reply], number: int, found: Sequence[Standing]) -> None:
    """Raises ValueError unless this version answered each, under a revision that names it."""
    require_named_version(replies, found)
    _refuse([reply for reply in replies if reply.version != number], len(replies), f"version {number} should have")


def require_named_version(replies: Sequence[Reply], found: Sequence[Standing]) -> None:
    """Raises ValueError unless each was answered by a version that its revision names for it."""
    wrong = [reply for reply in replies if not standing(found, reply.revision).may_answer(reply)]
    _refuse(wrong, len(replies), "which that revision does not name for it")


def _refuse(wrong: Sequence[Reply], of: int, why: str) -> None:
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{len(wrong)} of {of:,} replies are wrong: the first, for {first.key}, "
            f"by version {first.version} under revision {first.revision}; {why}"
        )
