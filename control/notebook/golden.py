"""Golden rows and the reference profile, from a sample and what the trained model said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from control.notebook.sample import Sample, cells, is_missing, match
from gateway.contract.document import ModelDocument
from gateway.contract.schema import Dtype, FeatureView

GOLDEN_ROWS: Final = 200
"""As many rows of the sample, spread over it, are golden."""
ASKED_ROWS: Final = 1000
"""Rows of the sample that the model is asked itself, where nobody says what it should answer."""


def golden_text(
    onnx: Path, document: ModelDocument, sample: Sample, expected: Any, views: Sequence[FeatureView]
) -> str:
    """The golden file; without `expected`, with the file's own answers."""
    from control.registry.admission.ask import ask, expected_columns, scores_of, to_csv

    results = expected_columns(document)
    chosen = spread(sample.n, GOLDEN_ROWS)
    pinned = pinned_views(document, views)
    rows = cells(document, take(sample, chosen), stored_types(document, pinned))
    if expected is None:
        scores = [scores_of(document, answers) for answers in ask(onnx, document, pinned, rows)]
    else:
        scores = expected_scores(document, expected, sample.n)[chosen].tolist()
    lines = [{**row, **dict(zip(results, map(repr, got), strict=True))} for row, got in zip(rows, scores, strict=True)]
    return to_csv([*(item.column for item in document.inputs), *results], lines)


def profile_text(
    onnx: Path, document: ModelDocument, sample: Sample, expected: Any, views: Sequence[FeatureView]
) -> str:
    """The reference profile of the sample; without `expected`, the scores are the file's own, of some rows."""
    from control.registry.admission.ask import ask, scores_of
    from control.registry.profile import make_profile

    if expected is None:
        pinned = pinned_views(document, views)
        rows = cells(document, take(sample, spread(sample.n, ASKED_ROWS)), stored_types(document, pinned))
        scores = np.array([scores_of(document, answers) for answers in ask(onnx, document, pinned, rows)])
    else:
        scores = expected_scores(document, expected, sample.n)
    names = document.output.labels or ("score",)
    features = {
        item.column: [None if is_missing(value) else _plain(value) for value in sample.columns[name]]
        for item, name in zip(document.inputs, match(document, sample), strict=True)
        if name is not None
    }
    return make_profile(features, {name: scores[:, place].tolist() for place, name in enumerate(names)})


def expected_scores(document: ModelDocument, expected: Any, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the trained model says, as (rows, scores): of a matrix with a column per class, the document's column."""
    given = np.asarray(expected, np.float64)
    given = given.reshape(len(given), -1) if given.ndim else given.reshape(1, 1)
    labels, column = document.output.labels, document.output.column
    if len(given) != n:
        raise ValueError(f"expected has {len(given)} results for the sample's {n} rows")
    if labels and given.shape[1] != len(labels):
        raise ValueError(f"expected has {given.shape[1]} scores a row; {document.name} has {len(labels)} labels")
    if not labels and given.shape[1] > 1:
        if column is None or column >= given.shape[1]:
            raise ValueError(
                f"expected has {given.shape[1]} scores a row; {document.name} has one: give that column, such as "
                "model.predict_proba(sample)[:, 1]"
            )
        given = given[:, [column]]
    return given


def pinned_views(document: ModelDocument, views: Sequence[FeatureView]) -> dict[str, FeatureView]:
    """The views that the document pins, by name; those that are not at hand are left out."""
    by_hash = {view.digest(): view for view in views}
    return {name: by_hash[pinned] for name, pinned in document.views.items() if pinned in by_hash}


def stored_types(document: ModelDocument, views: dict[str, FeatureView]) -> dict[str, Dtype]:
    """The types of the stored inputs, by their columns; raises ValueError where a view's definition is missing."""
    if absent := [item.view for item in document.stored if item.view not in views]:
        raise ValueError(f"the definition of view {absent[0]} is not at hand; apply it, or give views=[...]")
    return {item.column: views[item.view].feature(item.feature).type for item in document.stored}


def spread(n: int, most: int) -> list[int]:
    """At most so many of n rows, evenly spread, the first and last among them."""
    return sorted({round(place) for place in np.linspace(0, n - 1, min(n, most)).tolist()})


def take(sample: Sample, rows: Sequence[int]) -> Sample:
    """These rows of the sample."""
    return Sample(
        {name: [values[row] for row in rows] for name, values in sample.columns.items()}, len(rows), sample.named
    )


def _plain(value: Any) -> Any:
    """A number, text or boolean of Python's own."""
    return value.item() if isinstance(value, np.generic) else value
