"""The demo's data: 5,000 telecom customers, their features, and what a model of who will leave is told of them.

The data set has neither subscriber ids nor event times. Both are derived here, from a fixed seed, and called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from control.training.data import Split, column_dtype, representable, split
from control.training.export import SCORE_OUTPUT
from gateway.contract.document import ModelDocument
from gateway.contract.schema import Dtype, FeatureView

MODEL: Final = "churn"
ENTITY: Final = "subscriber"
TARGET: Final = "churn"
CALL: Final = "call"
LEAVE_ALONE: Final = "leave alone"
"""What the score is for: somebody calls those who are likely to leave."""
SEED: Final = 20_260_101
HELD_OUT_ROWS: Final = 1000
NEWEST_EVENT: Final = pd.Timestamp("2026-01-01", tz="UTC")
"""Derived event times lie in the four weeks before; fixed, so that the same data has the same digest every day."""

VIEWS: Final[Mapping[str, tuple[str, ...]]] = {
    "subscriber_profile": ("state", "area_code", "account_length", "international_plan", "voice_mail_plan"),
    "subscriber_usage": (
        "number_vmail_messages",
        *(
            f"total_{when}_{what}"
            for when in ("day", "eve", "night", "intl")
            for what in ("minutes", "calls", "charge")
        ),
    ),
    "subscriber_care": ("number_customer_service_calls",),
}
"""The features of each view. The second version of the model takes one more view than the first."""
FIRST: Final = ("subscriber_profile", "subscriber_usage")
SECOND: Final = (*FIRST, "subscriber_care")


def data_file() -> Path:
    """The data set: beside this module in an installed wheel, in data/ of a checkout."""
    here = Path(__file__).parent
    installed = here / "mlc_churn.csv"
    return installed if installed.exists() else here.parents[1] / "data" / installed.name


def load(path: Path) -> pd.DataFrame:
    """The customers, indexed by derived subscriber id, with a derived event time; the target is 1 for who left."""
    frame = representable(pd.read_csv(path))
    random = np.random.default_rng(SEED)
    numbers = random.choice(900_000, len(frame), replace=False) + 100_000
    seconds = random.integers(0, 28 * 86_400, len(frame))
    return frame.assign(
        **{TARGET: (frame[TARGET] == "yes").astype("int64")},
        subscriber=[f"S{number}" for number in numbers],
        event_time=NEWEST_EVENT - pd.to_timedelta(seconds, unit="s"),
    ).set_index(ENTITY)


def parts(frame: pd.DataFrame) -> Split:
    """80 % to train on, 1,000 subscribers held out."""
    return split(frame, TARGET, HELD_OUT_ROWS, SEED)


def features(views: Sequence[str]) -> list[str]:
    """The columns that these views hold, in order."""
    return [name for view in views for name in VIEWS[view]]


def view_definition(name: str, train: pd.DataFrame) -> FeatureView:
    """The view's definition; a subscriber without a value gets the one that is typical of the training set."""
    described = [
        {"name": column, "type": column_dtype(train, column), "default": _typical(train, column)}
        for column in VIEWS[name]
    ]
    return FeatureView.model_validate({"name": name, "entity": ENTITY, "features": described})


def document(views: Sequence[FeatureView], owner: str, column: int = 1) -> ModelDocument:
    """The model document of a version that takes all features of these views; column 1 is the probability to leave."""
    content: dict[str, Any] = {
        "name": MODEL,
        "task": "binary",
        "purpose": "Say which subscribers are likely to leave, so that somebody calls them first.",
        "owner": {"person": owner, "team": "retention"},
        "entities": [ENTITY],
        "views": {view.name: view.digest() for view in views},
        "inputs": [
            {"view": view.name, "feature": item.name, "feeds": item.name} for view in views for item in view.features
        ],
        "output": {"score": SCORE_OUTPUT, "column": column},
        "decision": {"kind": "threshold", "threshold": 0.5, "hit": CALL, "otherwise": LEAVE_ALONE},
        "segments": ["subscriber_profile.international_plan", "subscriber_profile.area_code"],
        "outcome": {"label": TARGET, "window_days": 30, "absence": "negative"},
    }
    return ModelDocument.model_validate(content)


def golden_names(views: Sequence[str]) -> dict[str, str]:
    """What the document calls each column."""
    return {column: f"{view}.{column}" for view in views for column in VIEWS[view]}


def _typical(train: pd.DataFrame, column: str) -> str | int | float:
    if column_dtype(train, column) is Dtype.STRING:
        return str(train[column].mode()[0])
    value = train[column].quantile(0.5, interpolation="lower").item()
    return value if isinstance(value, float) else int(value)
