"""What must be so before a version is decided on or a token is made. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from control.rollout.version import VersionRecord
from control.security import Role
from gateway.contract.document import Tier
from gateway.contract.errors import Fault, Reason

DAY_S: Final = 86_400
DEFAULT_VALID_S: Final = 90 * DAY_S
LONGEST_VALID_S: Final = 3650 * DAY_S
ACTOR: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
"""One spelling per person: lower case, so that `Ana` and `ana` are never two people."""
LONGEST_COMMENT: Final = 2000
QUORUM: Final[Mapping[Tier, int]] = MappingProxyType({Tier.LOW: 1, Tier.STANDARD: 1, Tier.REGULATED: 2})
"""How many people must approve a version, none of them its submitter."""


def still_needed(record: VersionRecord, approved_by: Collection[str]) -> int:
    """How many more people must approve, given those who did since it was last undone."""
    return max(0, QUORUM[record.document.tier] - len(set(approved_by)))


def check_first(record: VersionRecord, actor: str, approved_by: Collection[str]) -> None:
    """Raises a fault for who approved already: a quorum is of different people."""
    if actor in approved_by:
        raise Fault(
            Reason.TRANSITION_REFUSED,
            f"{actor} has approved {record.subject} already; {still_needed(record, approved_by)} more must, "
            f"since its tier is {record.document.tier}",
        )


def check_digest(record: VersionRecord, digest: str) -> None:
    """Raises a fault where the decider looked at another digest than the registered one; empty takes it as it is."""
    if digest and digest != record.digest:
        raise Fault(
            Reason.ARGUMENT_INVALID,
            f"digest: {record.subject} has {record.digest}, not {digest[:80]}; look at the version again",
        )


def check_comment(comment: str, required: bool = False) -> str:
    """The comment without blanks around it; raises a fault where it is too long, or missing and required."""
    text = comment.strip()
    if required and not text:
        raise Fault(Reason.ARGUMENT_INVALID, "comment: say why, for the audit trail")
    if len(text) > LONGEST_COMMENT:
        raise Fault(Reason.ARGUMENT_INVALID, f"comment: at most {LONGEST_COMMENT} characters, this has {len(text)}")
    return text


def check_actor(actor: str) -> str:
    """The actor, or a fault that says what a name looks like."""
    if not ACTOR.fullmatch(actor):
        raise Fault(
            Reason.ARGUMENT_INVALID,
            "actor: 1 to 64 of the characters a-z 0-9 . _ @ -, the first a letter or digit, such as ana@example.com",
        )
    return actor


def check_roles(names: Iterable[str]) -> frozenset[Role]:
    """The roles, or a fault that lists those there are."""
    known = {role.value for role in Role}
    given = list(names)
    if not given or not known.issuperset(given):
        raise Fault(Reason.ARGUMENT_INVALID, f"roles: one or more of {', '.join(sorted(known))}")
    return frozenset(Role(name) for name in given)


def check_validity(valid_s: int) -> int:
    """How long a token is valid, in seconds; 0 takes 90 days."""
    if not 0 <= valid_s <= LONGEST_VALID_S:
        raise Fault(Reason.ARGUMENT_INVALID, f"valid_s: 0 to {LONGEST_VALID_S}, in seconds; 0 takes 90 days")
    return valid_s or DEFAULT_VALID_S
