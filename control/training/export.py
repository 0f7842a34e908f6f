"""From a fitted pipeline to what the registry takes: an ONNX file and its golden rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import BooleanTensorType, FloatTensorType, Int64TensorType, StringTensorType

from control.training.data import column_dtype
from gateway.contract.schema import Dtype

GRAPH_TYPES: Final[Mapping[Dtype, Any]] = {
    Dtype.FLOAT32: FloatTensorType,
    Dtype.INT64: Int64TensorType,
    Dtype.STRING: StringTensorType,
    Dtype.BOOL: BooleanTensorType,
}
OPSET: Final = {"": 21, "ai.onnx.ml": 3}
SCORE_OUTPUT: Final = "probabilities"


def export_onnx(pipeline: Any, frame: pd.DataFrame) -> bytes:
    """The pipeline as a graph with one input per feature column, named as the column, and plain tensors as outputs."""
    inputs = [
        (name, GRAPH_TYPES[column_dtype(frame, name)]([None, 1])) for name in map(str, pipeline.feature_names_in_)
    ]
    graph = to_onnx(pipeline, initial_types=inputs, options={id(pipeline): {"zipmap": False}}, target_opset=OPSET)
    return bytes(graph.SerializeToString())


def golden_rows(frame: pd.DataFrame, names: Mapping[str, str], expected: npt.NDArray[np.float64]) -> str:
    """Rows with their expected scores, as CSV; `names` maps the columns to what the model document calls them."""
    rows = frame[list(names)].rename(columns=dict(names)).assign(expected=expected)
    return rows.to_csv(index=False, lineterminator="\n")
