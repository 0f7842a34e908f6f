"""A version before it is registered: trained, exported, and written down as files that can be registered by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import yaml

from control.demo import churn
from control.training.classifier import Hyperparameters, evaluate, fit, probability
from control.training.data import Split
from control.training.export import export_onnx, golden_rows
from gateway.contract.schema import Document, FeatureView

GOLDEN_ROWS: Final = 200
CHOSEN: Final = Hyperparameters()


@dataclass(frozen=True, slots=True)
class Candidate:
    """Where its files are, how good it is, and what scikit-learn says of every held-out subscriber."""

    model: Path
    golden: Path
    document: Path
    metrics: dict[str, float]
    expected: dict[str, float]
    """In float64, by subscriber."""


def prepare(parts: Split, views: Sequence[FeatureView], owner: str, directory: Path) -> Candidate:
    """Trains on the features of these views, exports, and writes the files of the version into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [view.name for view in views]
    pipeline = fit(parts.train, churn.features(names), parts.train[churn.TARGET], CHOSEN)
    scores = probability(pipeline, parts.held_out)
    golden = parts.train.head(GOLDEN_ROWS)
    model, rows, document = directory / "model.onnx", directory / "golden.csv", directory / "model.yaml"
    model.write_bytes(export_onnx(pipeline, parts.train))
    rows.write_text(golden_rows(golden, churn.golden_names(names), probability(pipeline, golden)))
    document.write_text(as_yaml(churn.document(views, owner)))
    return Candidate(model, rows, document, evaluate(_truth(parts), scores), _by_subscriber(parts, scores))


def as_yaml(document: Document) -> str:
    """A document as people write it: what was said, and nothing that was left at its default."""
    content = document.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _truth(parts: Split) -> npt.NDArray[np.int64]:
    return parts.held_out[churn.TARGET].to_numpy(np.int64)


def _by_subscriber(parts: Split, scores: npt.NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(parts.held_out.index.tolist(), scores.tolist(), strict=True))
