"""Rows of a table as the feature log takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pandas as pd

from control.v1 import features_pb2
from gateway.contract.schema import Dtype, Feature, FeatureView

CHUNK_ROWS: Final = 2_500


def feature_rows(frame: pd.DataFrame, view: FeatureView) -> Iterator[features_pb2.FeatureRows]:
    """The view's columns of a table that is indexed by entity key and has an event time, in chunks."""
    for start in range(0, len(frame), CHUNK_ROWS):
        chunk = frame.iloc[start : start + CHUNK_ROWS]
        yield features_pb2.FeatureRows(
            keys=chunk.index.tolist(),
            event_times_ns=chunk["event_time"].dt.as_unit("ns").astype("int64").tolist(),
            columns=[_column(chunk[feature.name], feature) for feature in view.features],
        )


def _column(values: pd.Series, feature: Feature) -> features_pb2.FeatureColumn:
    match feature.type:
        case Dtype.FLOAT32:
            return features_pb2.FeatureColumn(name=feature.name, numbers=values.tolist())
        case Dtype.INT64:
            return features_pb2.FeatureColumn(name=feature.name, integers=values.tolist())
        case Dtype.STRING:
            return features_pb2.FeatureColumn(name=feature.name, texts=values.tolist())
        case Dtype.BOOL:
            return features_pb2.FeatureColumn(name=feature.name, flags=values.tolist())
