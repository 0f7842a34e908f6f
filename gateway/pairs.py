"""Mirrored pairs, as the mirror's own journal keeps them: a shadow's rows, and beside them what they are compared with.

A block is the shadow's answers to rows of one block of a worker. Its payload names these rows, so that each pair bears
the id of the prediction that a caller got.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.journal import STAGES, Block

HEAD: Final = struct.Struct("<8sQ")
"""The life of the worker that answered, and the version that the shadow is compared with."""
OTHER: Final = np.dtype(
    [
        ("row", "<u8"),
        ("score", "<f8"),
        ("shadow_ns", "<u8"),
        ("other_ns", "<u8"),
        ("decision", "<i4"),
        ("reason", "<u2"),
        ("spare", "u1", (2,)),
    ]
)
"""What is kept of a row beside what the shadow said: its number in the worker's life, what the other version said (as
in the journal's ROW), and how long each of them ran."""


class Mirrored(NamedTuple):
    """Rows that two versions scored."""

    shadow: npt.NDArray[np.void]
    """Of type ROW."""
    other: npt.NDArray[np.void]
    """Of type OTHER."""


class Pairs(NamedTuple):
    """A block of the mirror's journal, read."""

    prediction_ids: list[str]
    other_version: int
    other: npt.NDArray[np.void]


def pairs_block(live: Block, shadow: tuple[int, int], other_version: int, mirrored: Mirrored) -> Block:
    """The block to append for a worker's block; `shadow` is its rollout and version."""
    rollout_id, version = shadow
    head = HEAD.pack(bytes.fromhex(live.prefix), other_version)
    return Block(
        model=live.model,
        version=version,
        revision=live.revision,
        feature_sequence=live.feature_sequence,
        time_ns=live.time_ns,
        stages_ns=(0,) * len(STAGES),
        rows=mirrored.shadow,
        payload=(head, mirrored.other.tobytes()),
        rollout_id=rollout_id,
    )


def read_pairs(block: Block) -> Pairs:
    """What the payload of such a block says."""
    head, raw = block.payload
    prefix, other_version = HEAD.unpack(head)
    other = np.frombuffer(raw, OTHER)
    return Pairs([f"{prefix.hex()}{row:012x}" for row in other["row"].tolist()], other_version, other)
