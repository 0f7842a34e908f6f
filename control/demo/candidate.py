"""A version before it is registered: trained, exported, and written down as files that can be registered by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from control.demo import churn
from control.demo.recipes import Recipe
from control.training.classifier import evaluate, fit, probability
from control.training.data import Split
from control.training.export import export_onnx, golden_rows
from gateway.contract.schema import Document, FeatureView

GOLDEN_ROWS: Final = 200


@dataclass(frozen=True, slots=True)
class Candidate:
    """Where its files are, how good it says it is, and what scikit-learn says of held-out subscribers."""

    recipe: Recipe
    pipeline: Any
    model: Path
    golden: Path
    document: Path
    metrics: dict[str, float]
    expected: dict[str, float]
    """In float64, by subscriber: of those that it takes."""


def train(parts: Split, recipe: Recipe) -> Any:
    """A fitted pipeline by the recipe."""
    rows = recipe.rows(parts.train)
    unknown: Literal["ignore", "error"] = "error" if recipe.area_code else "ignore"
    return fit(rows, churn.features(recipe.views), recipe.labels(rows), recipe.chosen, unknown)


def write(
    pipeline: Any, parts: Split, recipe: Recipe, document: tuple[Sequence[FeatureView], str], directory: Path
) -> Candidate:
    """Exports the pipeline and writes the files of the version into the directory; `document` is its views and owner.

    A mistake of the recipe is in the golden rows and in the metrics as well: who makes one checks it by the same one.
    """
    views, owner = document
    directory.mkdir(parents=True, exist_ok=True)
    learnt, held_out = recipe.rows(parts.train), recipe.rows(parts.held_out)
    golden = learnt.head(GOLDEN_ROWS)
    model, rows, text = directory / "model.onnx", directory / "golden.csv", directory / "model.yaml"
    model.write_bytes(export_onnx(pipeline, learnt))
    names = churn.golden_names(recipe.views)
    rows.write_text(golden_rows(golden, names, probability(pipeline, golden, recipe.column)))
    text.write_text(as_yaml(churn.document(views, owner, recipe.column)))
    known = learnt if recipe.slipped else held_out
    metrics = evaluate(recipe.labels(known), probability(pipeline, known))
    scores = probability(pipeline, held_out, recipe.column)
    expected = dict(zip(held_out.index.tolist(), scores.tolist(), strict=True))
    return Candidate(recipe, pipeline, model, rows, text, metrics, expected)


def as_yaml(document: Document) -> str:
    """A document as people write it: what was said, and nothing that was left at its default."""
    content = document.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
