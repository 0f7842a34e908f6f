"""What a model answers to rows, asked in the disposable process: for rehearsals and comparisons, never for callers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from control.registry.admission.gate import parsed, run_disposable
from control.registry.admission.report import Check, Limits, Refused
from gateway.contract.document import ModelDocument
from gateway.contract.golden import MAX_ROWS
from gateway.contract.schema import FeatureView

MODULE: Final = "control.registry.admission.answering"
MOST_SCORES: Final = 20_000
"""Scores asked for at once: the answer has to fit into what is read of it."""

Row = Mapping[str, str]
"""A cell for each input of the document, by its column; empty where there is no value."""


def ask(
    onnx: Path, document: ModelDocument, views: Mapping[str, FeatureView], rows: Sequence[Row]
) -> list[list[float]]:
    """The columns of the score output for each row; raises Refused where the model cannot answer."""
    per_run = max(1, min(MAX_ROWS, MOST_SCORES // max(1, len(document.output.labels))))
    found: list[list[float]] = []
    for part in _parts(rows, per_run):
        found += _ask(onnx, document, views, part)
    return found


def scores_of(document: ModelDocument, answers: Sequence[float]) -> list[float]:
    """The scores that golden rows expect of a row: one per label, or the one that the document names."""
    if document.output.labels:
        return list(answers)
    column = document.output.column
    if column is None and len(answers) != 1:
        raise Refused(
            Check.OUTPUT, f"output {document.output.score} has {len(answers)} columns; name one with output.column"
        )
    if (column or 0) >= len(answers):
        raise Refused(
            Check.OUTPUT,
            f"output {document.output.score} has {len(answers)} columns, but output.column is {column}",
        )
    return [answers[column or 0]]


def expected_columns(document: ModelDocument) -> list[str]:
    """The columns of golden rows that hold results."""
    return [f"expected:{label}" for label in document.output.labels] or ["expected"]


def to_csv(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Rows as the text of a golden file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parts(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    left = iter(rows)
    while part := list(islice(left, size)):
        yield part


def _ask(
    onnx: Path, document: ModelDocument, views: Mapping[str, FeatureView], rows: Sequence[Row]
) -> list[list[float]]:
    inputs, results = [item.column for item in document.inputs], expected_columns(document)
    limits = Limits()
    with onnx.open("rb") as model:
        request = {
            "model": model.fileno(),
            "document": document.canonical(),
            "views": {name: view.canonical() for name, view in views.items()},
            "rows": to_csv([*inputs, *results], [{**row, **dict.fromkeys(results, "0")} for row in rows]),
            "limits": limits._asdict(),
        }
        ended = run_disposable(json.dumps(request).encode(), (model.fileno(),), limits, MODULE)
    return _checked(parsed(ended, limits), len(rows))


def _checked(answer: Mapping[str, Any], n: int) -> list[list[float]]:
    """The answers: the process that gave them had hostile bytes in memory."""
    try:
        found = [[float(score) for score in row] for row in answer["answers"]]
    except (KeyError, TypeError, ValueError):
        found = []
    if len(found) != n or not all(found):
        raise Refused(Check.CRASH, "the process that ran it gave no answer that can be read")
    bad = next((row for row, scores in enumerate(found) if not all(map(math.isfinite, scores))), None)
    if bad is not None:
        raise Refused(Check.OUTPUT, f"row {bad + 1} gets a score that is not finite")
    return found
