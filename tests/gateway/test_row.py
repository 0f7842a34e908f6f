"""The row codec keeps what it was given, and says when bytes were damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.routing import bucket, is_challenger
from gateway.contract.row import RowCodec
from gateway.contract.schema import FeatureView

VIEW = FeatureView.model_validate(
    {
        "name": "usage",
        "entity": "subscriber",
        "features": [
            {"name": "minutes", "type": "float32"},
            {"name": "state", "type": "string", "default": ""},
            {"name": "calls", "type": "int64", "default": 0},
            {"name": "plan", "type": "bool", "default": False},
        ],
    }
)
CODEC = RowCodec(VIEW)

row = st.tuples(
    st.floats(width=32, allow_nan=False),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(row, min_size=1, max_size=20))
def test_rows_come_back_as_they_were_encoded(rows: list[tuple[float, int, int, bool, bool]]) -> None:
    """Every value and every null survives; a null's value is zero."""
    minutes, codes, calls, plans, gone = (list(column) for column in zip(*rows, strict=True))
    raw = CODEC.encode(
        [1] * len(rows),
        [2] * len(rows),
        {"minutes": np.array(minutes, np.float32), "state": np.array(codes), "calls": np.array(calls), "plan": plans},
        {"calls": gone},
    )
    back = CODEC.decode([raw[i : i + CODEC.stride] for i in range(0, len(raw), CODEC.stride)]).rows
    assert back["float32"][:, 0].tolist() == minutes
    assert back["code"][:, 0].tolist() == codes
    assert back["int64"][:, 0].tolist() == [0 if g else c for c, g in zip(calls, gone, strict=True)]
    assert back["flag"][:, 0].astype(bool).tolist() == plans
    assert ((back["nulls"][:, 0] >> np.uint64(2)) & np.uint64(1)).astype(bool).tolist() == gone


@given(st.integers(0, CODEC.stride - 1), st.integers(1, 255))
def test_any_changed_byte_is_seen(position: int, change: int) -> None:
    """A row with one byte changed is refused, wherever the byte lies."""
    damaged = bytearray(CODEC.blank)
    damaged[position] ^= change
    with pytest.raises(ValueError, match="damaged"):
        CODEC.decode([bytes(damaged)])


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=40), st.integers(0, 10_000), st.integers(0, 10_000))
def test_raising_the_weight_only_moves_entities_to_the_challenger(salt: bytes, key: bytes, a: int, b: int) -> None:
    """Assignment is monotone in the weight, and lies in range."""
    low, high = sorted((a, b))
    assert 0 <= bucket(salt, key) < 10_000
    assert is_challenger(salt, key, low) <= is_challenger(salt, key, high)
