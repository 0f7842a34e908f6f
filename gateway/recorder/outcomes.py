"""From records of the outcome log to the lake's tables of outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from gateway.recorder.columns import OUTCOMES
from gateway.recorder.predictions import hour
from gateway.wire.outcomes import Recorded


def partition(outcome: Recorded) -> str:
    """The directory of the lake in which an outcome lies: by when it was recorded, since its model may not be known."""
    return f"outcomes/hour={hour(outcome.recorded_ns)}"


def table(outcomes: Sequence[Recorded], gateway_id: str) -> pa.Table:
    """The outcomes, a row each."""
    rows = [
        outcome._asdict()
        | {
            "gateway_id": gateway_id,
            "entity_hashes": list(outcome.entity_hashes.items()),
            "kpis": list(outcome.kpis.items()),
        }
        for outcome in outcomes
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)
