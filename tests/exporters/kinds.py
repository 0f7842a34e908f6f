"""The fixtures as versions: each with the document that `model init` drafts of it, and what a person adds to that."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from control.registry.document import read_model
from control.registry.init import draft
from gateway.contract.document import ModelDocument

FIXTURES: Final = Path(__file__).parent / "fixtures"
EDITS: Final[dict[str, Mapping[str, str]]] = {
    "lightgbm": {},
    "lightgbm_categories": {},
    "lightgbm_ranker": {"task: regression": "task: ranking"},
    "sklearn_columns": {},
    "sklearn_float64": {},
    "sklearn_isolation_forest": {},
    "sklearn_mixed_columns": {},
    "sklearn_multi_classifier": {},
    "sklearn_multi_forest": {},
    "sklearn_multi_output": {},
    "sklearn_multi_regression": {},
    "sklearn_opset26": {},
    "sklearn_opset9": {},
    "sklearn_regression": {},
    "sklearn_text_labels": {},
    "torch_flat": {},
    "torch_int32": {},
    "torch_listed": {},
    "torch_one_row": {},
    "torch_ranking": {"task: multiclass": "task: ranking", "kind: argmax": "kind: top_k"},
    "xgboost": {},
}
"""What a person changes in each draft, beside the purpose and the owner that only a person knows."""


class Kind(NamedTuple):
    """One exporter's model, with rows and what the framework says of them."""

    name: str
    document: ModelDocument
    yaml: str
    columns: list[list[Any]]
    """As many as the document has inputs, in their order."""
    expected: list[list[float]]

    def golden(self) -> bytes:
        """The rows as golden rows."""
        labels = self.document.output.labels
        header = [f"expected:{label}" for label in labels] if labels else ["expected"]
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow([item.request for item in self.document.requested] + header)
        writer.writerows(
            [*row, *found] for row, found in zip(zip(*self.columns, strict=True), self.expected, strict=True)
        )
        return file.getvalue().encode()


def read_kind(name: str) -> Kind:
    """Drafts the document as `model init` does, and fills it in."""
    text = draft(FIXTURES / f"{name}.onnx")
    for old, new in {'purpose: ""': "purpose: A test.", 'person: ""': "person: ana", **EDITS[name]}.items():
        assert old in text, text
        text = text.replace(old, new)
    found = json.loads((FIXTURES / f"{name}.json").read_text())
    return Kind(name, read_model(text), text, list(found["inputs"].values()), found["expected"])
