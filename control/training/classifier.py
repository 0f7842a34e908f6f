"""A classifier of rows with text and numbers: one-hot encoding, then boosted trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from control.training.data import column_dtype
from gateway.contract.schema import Dtype


class Hyperparameters(NamedTuple):
    """What was chosen before training; they go into the manifest as they are."""

    trees: int = 150
    depth: int = 4
    learning_rate: float = 0.1
    subsample: float = 0.8
    seed: int = 7


def fit(
    frame: pd.DataFrame,
    features: Sequence[str],
    target: npt.ArrayLike,
    chosen: Hyperparameters,
    unknown: Literal["ignore", "error"] = "ignore",
) -> Pipeline:
    """Trains a pipeline that takes the features as columns of a table.

    Numbers reach the trees as they are: a scaler before them would round thresholds and flip rows in float32. A text
    that was not in the training set is none of the known ones, or fails the row where `unknown` says so.
    """
    texts = [name for name in features if column_dtype(frame, name) is Dtype.STRING]
    encoder = OneHotEncoder(handle_unknown=unknown, sparse_output=False)
    trees = GradientBoostingClassifier(
        n_estimators=chosen.trees,
        max_depth=chosen.depth,
        learning_rate=chosen.learning_rate,
        subsample=chosen.subsample,
        random_state=chosen.seed,
    )
    columns = ColumnTransformer([("texts", encoder, texts)], remainder="passthrough")
    return Pipeline([("columns", columns), ("trees", trees)]).fit(frame[list(features)], target)


def probability(pipeline: Any, frame: pd.DataFrame, column: int = 1) -> npt.NDArray[np.float64]:
    """The probability of a class per row, of the positive one by default, as scikit-learn computes it in float64."""
    return np.asarray(pipeline.predict_proba(frame[list(pipeline.feature_names_in_)])[:, column], np.float64)


def evaluate(truth: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> dict[str, float]:
    """What to know of a classifier's scores before approving it, on rows that it has not seen."""
    return {
        "roc_auc": round(float(roc_auc_score(truth, scores)), 4),
        "average_precision": round(float(average_precision_score(truth, scores)), 4),
        "log_loss": round(float(log_loss(truth, scores)), 4),
    }
