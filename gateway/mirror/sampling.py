"""Which rows a shadow is to score: chosen by the entity and nothing that the row says. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from gateway.assignment import CALLERS
from gateway.contract.routing import WHOLE_BPS
from gateway.journal import ROLLOUT_STANDS_IN, Block
from gateway.record import REASON_NUMBERS
from gateway.request import Arm, Mark
from gateway.wire.routes import Shadow

REFUSED: Final = frozenset(REASON_NUMBERS[reason] for reason in CALLERS)
"""Rows that no version could have scored."""


def wanted_rows(block: Block, shadow: Shadow) -> list[int]:
    """The places of the rows in the block that are to be mirrored.

    Not those of calls that named their version, nor those of blocks that a worker wrote before it followed the rollout.
    A row that the control answered in a challenger's place is mirrored as the challenger's attempt, once.
    """
    if block.revision < shadow.rollout_id:
        return []
    return list(_rows(block, shadow))


def _rows(block: Block, shadow: Shadow) -> Iterator[int]:
    salt = b"mirror %d" % shadow.rollout_id
    for index, row in enumerate(block.rows.tolist()):
        entity_hash, *_, reason, _, flags, arm, _, rollout_flags, _ = row
        if arm in (Arm.PINNED, Arm.UNASSIGNED) or reason in REFUSED:
            continue
        if rollout_flags & ROLLOUT_STANDS_IN or flags & Mark.FALLBACK:
            continue
        if shadow.mirrored_bps < WHOLE_BPS:
            unit = f"{entity_hash}" if entity_hash else f"{block.prefix} {block.first_row + index}"
            digest = blake2b(unit.encode(), key=salt, digest_size=8).digest()
            if int.from_bytes(digest, "little") % WHOLE_BPS >= shadow.mirrored_bps:
                continue
        yield index
