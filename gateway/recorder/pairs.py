"""From the mirror's journal to the lake's tables of pairs: what a shadow said of rows that callers got from others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from gateway.journal import Block
from gateway.pairs import read_pairs
from gateway.recorder.arrays import decisions, each, in_schema, nullable, reasons, scores, word
from gateway.recorder.columns import PAIRS
from gateway.recorder.definitions import Definition
from gateway.recorder.predictions import hour

Known = tuple[Definition | None, Definition | None]
"""What is known of the shadow, and of the version that it is compared with."""


def partition(block: Block) -> str:
    """The directory of the lake in which a block's pairs lie, by when their rows were scored for their callers."""
    return f"pairs/model={block.model}/hour={hour(block.time_ns)}"


def table(blocks: Sequence[tuple[Block, Known]], gateway_id: str) -> pa.Table:
    """The pairs of some blocks, all of one model."""
    found = [read_pairs(block) for block, _ in blocks]
    rows = np.concatenate([block.rows for block, _ in blocks])
    others = np.concatenate([pairs.other for pairs in found])
    sizes = [len(block.rows) for block, _ in blocks]
    nothing = np.zeros(len(rows), np.int32)
    return in_schema(
        {
            "prediction_id": [name for pairs in found for name in pairs.prediction_ids],
            "time_ns": each([block.time_ns for block, _ in blocks], sizes),
            "gateway_id": word([gateway_id], nothing),
            "model": word([blocks[0][0].model], nothing),
            "rollout_id": each([block.rollout_id for block, _ in blocks], sizes),
            "entity_hash": nullable(rows["entity_hash"], 0),
            "version": each([block.version for block, _ in blocks], sizes),
            "score": scores(rows["score"]),
            "decision": decisions([(block.rows["decision"], known[0]) for block, known in blocks]),
            "reason": reasons(rows["reason"]),
            "run_ns": others["shadow_ns"],
            "other_version": each([pairs.other_version for pairs in found], sizes),
            "other_score": scores(others["score"]),
            "other_decision": decisions(
                [(pairs.other["decision"], known[1]) for pairs, (_, known) in zip(found, blocks, strict=True)]
            ),
            "other_reason": reasons(others["reason"]),
            "other_run_ns": others["other_ns"],
        },
        PAIRS,
    )
