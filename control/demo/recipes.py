"""How each version of the story is made: two good ones, and three with a mistake that nobody saw in time."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from control.demo import churn
from control.training.classifier import Hyperparameters


class Recipe(NamedTuple):
    """What a version is trained on, how, and what its document says of the result."""

    views: tuple[str, ...]
    chosen: Hyperparameters = Hyperparameters()
    trained_by: int = 0
    """The version whose graph it takes as it is; 0 trains one of its own."""
    column: int = 1
    """Which of the graph's two probabilities is the score: 1 is that of leaving."""
    area_code: str = ""
    """The only one whose subscribers it is trained on, and takes; empty for all."""
    slipped: bool = False
    """Whether the labels stand one row too low."""

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that the version can be trained on and scores."""
        return frame[frame["area_code"] == self.area_code] if self.area_code else frame

    def labels(self, rows: pd.DataFrame) -> npt.NDArray[np.int64]:
        """What it learns of these rows."""
        found = rows[churn.TARGET].to_numpy(np.int64)
        return np.roll(found, 1) if self.slipped else found


class Planted(NamedTuple):
    """A mistake that a rollout is to find, and the number of the version that has it."""

    kind: str
    version: int
    mistake: str
    found_by: tuple[str, ...]
    """Words of which the reason for the rollback must have one: found by what it is, and not because time was up."""


RECIPES: Final[Mapping[int, Recipe]] = MappingProxyType(
    {
        1: Recipe(churn.FIRST),
        2: Recipe(churn.SECOND),
        3: Recipe(churn.SECOND, Hyperparameters(trees=50), area_code="area_code_415"),
        4: Recipe(churn.SECOND, trained_by=2, column=0),
        # Learns by heart, so that as many are called as before: only whom it calls is wrong.
        5: Recipe(churn.SECOND, Hyperparameters(trees=5, depth=12, learning_rate=1.0, subsample=1.0), slipped=True),
    }
)
"""By the number of the version."""

PLANTED: Final = (
    Planted("failing_calls", 3, "its graph raises outside the area that it was trained in", ("errors", "in a row")),
    Planted("wrong_scores", 4, "its document takes the probability of staying for that of leaving", ("decisions",)),
    Planted("quality", 5, "it was trained on labels that stand one row too low", ("labels",)),
)
