"""Which arm a row is assigned to: sticky, salted, and monotone in the weight."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

WHOLE_BPS: Final = 10_000


def bucket(salt: bytes, key: bytes) -> int:
    """The entity's place in [0, 10,000): the same for ever under one salt, independent under another.

    `salt` belongs to the rollout (at most 64 bytes), `key` is the entity key.
    """
    return int.from_bytes(blake2b(key, key=salt, digest_size=8).digest(), "big") % WHOLE_BPS


def is_challenger(salt: bytes, key: bytes, weight_bps: int) -> bool:
    """Whether the entity is assigned to the challenger; raising the weight only ever moves entities towards it."""
    return bucket(salt, key) < weight_bps
