"""Two versions side by side: what differs in what they are, and in what they say of the same rows. Pure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from control.notebook.table import Table, shown
from gateway.contract.document import ModelDocument
from gateway.contract.tensors import interpret


@dataclass(frozen=True, slots=True, repr=False)
class SideBySide:
    """What two versions say of the same rows."""

    correlation: float
    """Pearson's, of the scores; NaN where one of the versions gives all rows the same."""
    mean_difference: float
    """Second less first."""
    max_difference: float
    """The largest, either way."""
    flips: list[int]
    """The rows that are decided differently."""
    decided: bool
    """Whether both versions decide anything."""
    table: Table
    """Every row, those that differ most first."""

    def __repr__(self) -> str:
        return f"{self.summary}\n{self.table!r}"

    @property
    def summary(self) -> str:
        """The figures in a sentence."""
        flips = f", {len(self.flips)} decided differently" if self.decided else ""
        return (
            f"{len(self.table)} rows: correlation {shown(self.correlation)}, mean difference "
            f"{shown(self.mean_difference)}, largest {shown(self.max_difference)}{flips}"
        )


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """What differs between two versions."""

    first: str
    second: str
    differences: Table
    scores: SideBySide | None
    """Where a sample was given."""

    def __repr__(self) -> str:
        found = repr(self.differences) if self.differences.rows else f"{self.first} and {self.second} do not differ"
        return found + (f"\n\n{self.scores!r}" if self.scores else "")

    def _repr_html_(self) -> str:
        found = self.differences._repr_html_()
        if self.scores:
            found += f"<p>{html.escape(self.scores.summary)}</p>{self.scores.table._repr_html_()}"
        return found


def differences(first: str, second: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Table:
    """Everything in which the manifests differ: metrics, document, signature, lineage and the rest."""
    facts, others = manifest_facts(one), manifest_facts(other)
    names = [*facts, *(name for name in others if name not in facts)]
    pairs = ((name, facts.get(name), others.get(name)) for name in names)
    rows = [(name, shown(a), shown(b), _difference(a, b)) for name, a, b in pairs if a != b]
    return Table(("what", first, second, "difference"), rows, f"{first} and {second}")


def manifest_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says, by dotted names; inputs, tensors and lineage by their own names."""
    document = dict(manifest.get("document", {}))
    inputs = document.pop("inputs", [])
    found = _flat("metrics", manifest.get("metrics", {})) | _flat(
        "hyperparameters", manifest.get("hyperparameters", {})
    )
    found |= _flat("document", document)
    for item in inputs:
        name = item.get("request") or f"{item.get('view')}.{item.get('feature')}"
        kept = {key: value for key, value in item.items() if key not in ("request", "view", "feature")}
        found[f"input {name}"] = ", ".join(f"{key} {value}" for key, value in kept.items() if value is not None)
    for side, tensors in manifest.get("signature", {}).items():
        for tensor in tensors:
            found[f"graph's {side.rstrip('s')} {tensor['name']}"] = f"{tensor['type']} {tensor['shape']}"
    found |= {f"lineage {entry['name']}": entry["sha256"][:12] for entry in manifest.get("lineage", ())}
    found |= {f"artifact {name}": file["sha256"][:12] for name, file in manifest.get("artifacts", {}).items()}
    return found | {"code commit": manifest.get("code_commit", "")}


def side_by_side(
    names: tuple[str, str],
    documents: tuple[ModelDocument, ModelDocument],
    answers: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]],
) -> SideBySide:
    """Compares scores, and decisions where both versions decide; `answers` are the columns of each score output."""
    results = [
        interpret(document, np.asarray(answer), len(answer))
        for document, answer in zip(documents, answers, strict=True)
    ]
    same_labels = documents[0].output.labels == documents[1].output.labels
    if documents[0].output.labels and same_labels:
        one, other = (np.asarray(answer, np.float64).ravel() for answer in answers)
    else:
        one, other = (np.asarray(result.scores, np.float64) for result in results)
    decisions = [result.decisions for result in results]
    decided = all(found is not None for found in decisions)
    pairs = list(zip(decisions[0] or (), decisions[1] or (), strict=False)) if decided else []
    columns = ("row", *names, "difference", *((f"{names[0]} decides", f"{names[1]} decides") if decided else ()))
    rows = [
        (row + 1, a, b, b - a, *(pairs[row] if decided else ()))
        for row, (a, b) in enumerate(zip(results[0].scores, results[1].scores, strict=True))
    ]
    rows.sort(key=lambda row: -abs(float(row[3])))
    return SideBySide(
        _correlation(one, other),
        float((other - one).mean()),
        float(np.abs(other - one).max()),
        [row for row, (a, b) in enumerate(pairs) if a != b],
        decided,
        Table(columns, rows),
    )


def _correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(f"{prefix}.{key}", item)
    return found


def _difference(one: object, other: object) -> float | None:
    """How much more the other is, where both are numbers."""
    if isinstance(one, bool) or isinstance(other, bool):
        return None
    if isinstance(one, int | float) and isinstance(other, int | float):
        return other - one
    return None
