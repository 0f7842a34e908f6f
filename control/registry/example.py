"""Rows to try a model with, made from its graph: what its trees ask for and what its encoders know. Pure.

They stand for golden rows where there are none yet, and are what a newcomer pastes first: the model must take them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from onnx import ModelProto

from gateway.contract.document import ModelDocument, RequestInput, StoredInput
from gateway.contract.schema import Dtype

CATEGORIES: Final = ("cats_strings", "keys_strings", "cats_int64s", "keys_int64s")
"""The attributes in which encoders list what they know."""
QUANTILES: Final = (0.5, 0.1, 0.9, 0.3, 0.7)
PLAIN: Final = {
    Dtype.FLOAT32: ("1.0", "0.0", "2.0", "0.5", "-1.0"),
    Dtype.INT64: ("1", "0", "2", "3", "5"),
    Dtype.STRING: ("a", "b", "c", "d", "e"),
    Dtype.BOOL: ("true", "false", "true", "false", "true"),
}
"""Values of inputs of which the graph says nothing: one for each row."""
DIGITS: Final = 3
RESHAPES: Final = frozenset({"Identity", "Reshape", "Cast", "Squeeze", "Unsqueeze", "Flatten"})
"""Operators that leave the columns where they are."""
PICKS: Final = frozenset({"Gather", "ArrayFeatureExtractor"})
"""Operators that take columns out: of an input of one column, that one."""
NOTHING: Final = 1e-9
"""Trees split at such numbers to tell what is zero."""


def example_rows(model: ModelProto, document: ModelDocument) -> list[dict[str, str]]:
    """Rows as golden files have them, without results, the most typical first."""
    columns = list(_placed(document))
    alone = Counter(item.feeds for item, _ in columns)
    known = {name: words for name, words in _categories(model).items() if alone[name] == 1}
    thresholds = _thresholds(model)
    rows = [
        {
            item.column: _cell(item, known.get(item.feeds, ()), thresholds.get((item.feeds, place), ()), number)
            for item, place in columns
        }
        for number in range(len(QUANTILES))
    ]
    return [row for place, row in enumerate(rows) if row not in rows[:place]]


def _placed(document: ModelDocument) -> Iterator[tuple[StoredInput | RequestInput, int]]:
    """The document's inputs, each with its column in the graph's input."""
    counts: dict[str, int] = defaultdict(int)
    for item in document.inputs:
        yield item, counts[item.feeds]
        counts[item.feeds] += 1


def _cell(item: StoredInput | RequestInput, categories: Sequence[str], thresholds: Sequence[float], number: int) -> str:
    kind = item.type if isinstance(item, RequestInput) else Dtype.FLOAT32
    if categories:
        return categories[number % len(categories)]
    if len(thresholds) and kind in (Dtype.FLOAT32, Dtype.INT64):
        value = float(np.quantile(np.asarray(thresholds), QUANTILES[number]))
        rounded = 0.0 if abs(value) < NOTHING else float(f"{value:.{DIGITS}g}")
        return str(round(value)) if kind is Dtype.INT64 else repr(rounded)
    return PLAIN[kind][number]


def _categories(model: ModelProto) -> dict[str, list[str]]:
    """What encoders know, by the graph input that they read, also through nodes between that pick or reshape it."""
    source = _sources(model, RESHAPES | PICKS)
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in CATEGORIES and node.input and (name := source.get(node.input[0])):
                words = [text.decode(errors="replace") for text in attribute.strings] or list(map(str, attribute.ints))
                found.setdefault(name, words)
    return {name: words for name, words in found.items() if words}


def _thresholds(model: ModelProto) -> dict[tuple[str, int], list[float]]:
    """The values that trees compare each column with, by graph input and column."""
    source = _sources(model, RESHAPES)
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for node in model.graph.node:
        name = source.get(node.input[0]) if node.input else None
        if name is None or not node.op_type.startswith("TreeEnsemble"):
            continue
        values: Mapping[str, Sequence[float]] = {a.name: list(a.ints) or list(a.floats) for a in node.attribute}
        modes = next((list(a.strings) for a in node.attribute if a.name == "nodes_modes"), [])
        columns, limits = values.get("nodes_featureids", ()), values.get("nodes_values", ())
        for column, limit, mode in zip(columns, limits, modes, strict=False):
            if mode != b"LEAF" and np.isfinite(limit):
                found[name, int(column)].append(limit)
    return found


def _sources(model: ModelProto, through: frozenset[str]) -> dict[str, str]:
    """The graph input that a value is, by the value's name: itself, or what nodes of these kinds make of it."""
    source = {value.name: value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type in through and node.input and node.input[0] in source:
            source |= dict.fromkeys(node.output, source[node.input[0]])
    return source
