"""Tables that a model can be trained on and served from alike."""

from __future__ import annotations

from typing import NamedTuple, cast

import pandas as pd
from sklearn.model_selection import train_test_split

from gateway.contract.schema import Dtype


class Split(NamedTuple):
    """A table in two parts that share no row, each in the table's own order."""

    train: pd.DataFrame
    held_out: pd.DataFrame


def representable(frame: pd.DataFrame) -> pd.DataFrame:
    """Rounds every float column to the nearest float32, kept as float64.

    The graph compares in float32 and scikit-learn in float64. On values that both can represent, neither sees a row
    on the other side of a threshold than the other does.
    """
    floats = [name for name in frame if column_dtype(frame, str(name)) is Dtype.FLOAT32]
    return frame.assign(**{str(name): frame[name].astype("float32").astype("float64") for name in floats})


def split(frame: pd.DataFrame, target: str, held_out_rows: int, seed: int) -> Split:
    """Holds out rows at random, with the target as frequent in one part as in the other."""
    train, held_out = train_test_split(frame, test_size=held_out_rows, random_state=seed, stratify=frame[target])
    return Split(cast("pd.DataFrame", train).sort_index(), cast("pd.DataFrame", held_out).sort_index())


def column_dtype(frame: pd.DataFrame, name: str) -> Dtype:
    """The feature type that keeps a column; raises ValueError for one that no feature type keeps."""
    dtype = frame[name].dtype
    if pd.api.types.is_bool_dtype(dtype):
        return Dtype.BOOL
    if pd.api.types.is_integer_dtype(dtype):
        return Dtype.INT64
    if pd.api.types.is_float_dtype(dtype):
        return Dtype.FLOAT32
    if pd.api.types.is_string_dtype(dtype):
        return Dtype.STRING
    raise ValueError(f"column {name} is {dtype}; float, integer, text and bool columns can be features")
