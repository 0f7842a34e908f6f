"""The columns of the lake's files, as docs/lake.md explains them. Columns are added; none is given another sense."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from gateway.journal import STAGES

NUMBERS: Final = pa.map_(pa.string(), pa.float64())
TEXTS: Final = pa.map_(pa.string(), pa.string())
WORD: Final = pa.dictionary(pa.int32(), pa.string())
"""Text of which there are few different ones."""

PREDICTIONS: Final = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("time_ns", pa.int64()),
        ("gateway_id", WORD),
        ("revision", pa.int64()),
        ("model", WORD),
        ("version", pa.int64()),
        ("arm", WORD),
        ("answered_by", WORD),
        ("rollout_id", pa.int64()),
        ("step", pa.int32()),
        ("weight_bps", pa.int32()),
        ("entity_hash", pa.uint64()),
        ("flags", pa.int32()),
        ("rollout_flags", pa.int32()),
        *((f"{stage}_ns", pa.int64()) for stage in STAGES),
        ("feature_sequence", pa.int64()),
        ("feature_age_ms", pa.int64()),
        ("defaulted", pa.int32()),
        ("score", pa.float64()),
        ("decision", WORD),
        ("reason", WORD),
        ("features", NUMBERS),
        ("texts", TEXTS),
    ]
)

OUTCOMES: Final = pa.schema(
    [
        ("outcome_id", pa.string()),
        ("recorded_ns", pa.int64()),
        ("gateway_id", WORD),
        ("prediction_id", pa.string()),
        ("model", WORD),
        ("entity_hashes", pa.map_(pa.string(), pa.uint64())),
        ("event_time_ns", pa.int64()),
        ("label_number", pa.float64()),
        ("label_text", pa.string()),
        ("kpis", NUMBERS),
    ]
)

PAIRS: Final = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("time_ns", pa.int64()),
        ("gateway_id", WORD),
        ("model", WORD),
        ("rollout_id", pa.int64()),
        ("entity_hash", pa.uint64()),
        ("version", pa.int64()),
        ("score", pa.float64()),
        ("decision", WORD),
        ("reason", WORD),
        ("run_ns", pa.int64()),
        ("other_version", pa.int64()),
        ("other_score", pa.float64()),
        ("other_decision", WORD),
        ("other_reason", WORD),
        ("other_run_ns", pa.int64()),
    ]
)
