"""`model init`: a model document drafted from an ONNX file's graph, with what only a person knows left open."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from control.registry.admission.formats import check_format
from control.registry.admission.graph import check_graph, check_limits, parse
from control.registry.admission.report import Limits, Refused
from control.registry.admission.rewrite import rewrite
from control.registry.admission.wire import check_wire
from control.registry.graphs import Graph, Input, class_labels, read_graph
from gateway.contract.document import Task
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import FeatureView
from gateway.contract.tensors import ACCEPTS, GRAPH_DTYPES

SCORES: Final = ("probabilities", "output_probability", "probability", "scores", "score", "variable")
"""What converters call the output that holds the score, the likeliest first."""
PROBABILITIES: Final = frozenset(SCORES[:3])
REGRESSIONS: Final = frozenset({"variable"})
"""What converters call the output of a regression, however many columns it has."""
CATEGORY: Final = "  # a category's code, as a number: trees compare it for equality"
PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:]*(?<!:)")


class Guess(NamedTuple):
    """What the output seems to mean."""

    task: Task
    score: str
    column: int | None
    columns: int
    """How many columns it has; 0 where the graph does not say."""


def draft(onnx: Path, name: str = "", views: Sequence[FeatureView] = ()) -> str:
    """The text of a model.yaml for the file. Features of `views` feed the inputs that bear their names.

    Raises a fault where the file is no ONNX model.
    """
    data = onnx.read_bytes()
    limits = Limits()
    try:
        check_format(data)
        check_wire(data, limits.metadata_entries + 64)
        model = parse(data)
        check_limits(model, limits)
        served, changes = rewrite(model)
        check_graph(served, limits)
    except Refused as refused:
        raise Fault(Reason.ADMISSION_REFUSED, f"{onnx.name}: {refused.message}", check=refused.check.value) from None
    return write(read_graph(served, class_labels(model), changes), slug(name or onnx.stem), views)


def guess(graph: Graph) -> Guess:
    """What the output that holds the score seems to be, and to mean."""
    named = {output.name: output for output in graph.outputs}
    found = next((named[name] for name in SCORES if name in named), None)
    if found is None:
        found = next((output for output in graph.outputs if output.is_float), graph.outputs[-1])
    classes = found.name in PROBABILITIES or bool(graph.labels)
    columns = found.columns or (len(graph.labels) if classes else 0)
    if found.name == "scores" and {"label", "scores"} <= named.keys() and columns <= 1:
        return Guess(Task.ANOMALY, found.name, 0 if columns == 0 else None, columns)
    if columns > 2 and found.name in REGRESSIONS:
        return Guess(Task.REGRESSION, found.name, 0, columns)
    if columns > 2:
        return Guess(Task.MULTICLASS, found.name, None, columns)
    if columns == 2:
        return Guess(Task.BINARY, found.name, 1, columns) if classes else Guess(Task.REGRESSION, found.name, 0, columns)
    return Guess(Task.BINARY if found.name in PROBABILITIES else Task.REGRESSION, found.name, None, columns)


def write(graph: Graph, name: str, views: Sequence[FeatureView]) -> str:
    """The document as text, with a comment on every line that a person should look at."""
    guessed = guess(graph)
    columns = list(_columns(graph, views))
    used = [view for view in views if any(line.startswith(f"{{view: {view.name},") for line in columns)]
    lines = [
        "# Drafted from the graph. Fill in what is REQUIRED, check what is GUESSED, then: interlock model register",
        *(f"# Registration will change the graph: {change}." for change in graph.changes),
        f"name: {name}",
        f"task: {guessed.task}  # GUESSED: one of {', '.join(Task)}{_ranking(guessed, graph)}",
        'purpose: ""  # REQUIRED: what the model is for, in a sentence',
        "owner:",
        '  person: ""  # REQUIRED: who answers for it, by the name of their account',
        "tier: standard  # low, standard or regulated: how much evidence and how many people a version needs",
    ]
    if used:
        lines += [f"entities: [{', '.join(dict.fromkeys(view.entity for view in used))}]"]
        lines += ["views:  # each pinned by the hash of its definition"]
        lines += [f"  {view.name}: {view.digest()}" for view in used]
    else:
        lines += ["entities: []  # the entities whose keys a request gives; needed once an input is a stored feature"]
    lines += [
        "inputs:  # the columns of the graph's inputs, in order. A stored feature, instead of a value that the caller",
        "  # sends, is written {view: VIEW, feature: FEATURE, feeds: INPUT}, and its view is pinned under `views`",
        *(f"  - {line}" for line in columns),
        *_meaning(guessed, graph),
        "nan: reject  # whether a request-time float may be NaN or infinite: allow or reject",
        "tolerance: 1e-5  # how far a golden row's result may lie from the expected one",
    ]
    return "\n".join(lines) + "\n"


def _ranking(guessed: Guess, graph: Graph) -> str:
    """What tells a ranking model from what it looks like in the graph."""
    if guessed.task is Task.REGRESSION:
        return "; ranking, if its score is only there to sort by"
    if guessed.task is Task.MULTICLASS and not graph.labels:
        return "; ranking, if its columns are offers to choose among"
    return ""


def slug(text: str) -> str:
    """The text as a name: lower-case letters, digits and underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:63] or "model"
    return name if name[0].isalpha() else f"m_{name}"[:63]


def _columns(graph: Graph, views: Sequence[FeatureView]) -> Iterator[str]:
    taken: set[str] = set()
    for item in graph.inputs:
        stored = _stored(item, views)
        if stored:
            yield from (f"{{view: {view}, feature: {feature}, feeds: {_text(item.name)}}}" for view, feature in stored)
            continue
        open_end = "" if item.columns else "  # REQUIRED: the graph does not say how many columns; list each, in order"
        for index in range(max(item.columns, 1)):
            name = _unused(slug(item.name) if item.columns == 1 else f"{slug(item.name)[:56]}_{index + 1}", taken)
            comment = CATEGORY if index in item.categories else open_end
            yield f"{{request: {name}, type: {item.type}, feeds: {_text(item.name)}}}{comment}"


def _stored(item: Input, views: Sequence[FeatureView]) -> list[tuple[str, str]]:
    """The features that feed the input: the one of its name, or all of one view where as many are wanted."""
    dtype = GRAPH_DTYPES[item.graph_type]
    for view in views:
        fitting = [feature.name for feature in view.features if dtype in ACCEPTS[feature.type]]
        if item.columns == 1 and slug(item.name) in fitting:
            return [(view.name, slug(item.name))]
        if item.columns > 1 and len(fitting) == item.columns:
            return [(view.name, feature) for feature in fitting]
    return []


def _unused(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name[:58]}_{number}", number + 1
    taken.add(found)
    return found


def _meaning(guessed: Guess, graph: Graph) -> list[str]:
    lines = ["output:", f"  score: {_text(guessed.score)}  # GUESSED: the graph output that holds the score"]
    labels = graph.labels
    made_up = len(labels) != guessed.columns
    if guessed.column is not None:
        width = next(output.columns for output in graph.outputs if output.name == guessed.score)
        lines.append(
            f"  column: {guessed.column}  # GUESSED: which of its {f'{width} ' if width else ''}columns, counted from 0"
        )
    match guessed.task:
        case Task.MULTICLASS:
            labels = tuple(f"class_{index}" for index in range(guessed.columns)) if made_up else labels
            doubt = "GUESSED: the label of each column" if made_up else "one per column"
            lines += [f"  labels: [{', '.join(_quoted(label) for label in labels)}]  # {doubt}"]
            lines += ["decision: {kind: argmax}  # or none"]
        case Task.BINARY:
            hit, otherwise = (labels[1], labels[0]) if len(labels) == 2 else ("yes", "no")
            lines += ["decision:  # GUESSED: what the score means for the business; a change of it is a new approval"]
            lines += ["  kind: threshold", "  threshold: 0.5", f"  hit: {_quoted(hit)}"]
            lines += [f"  otherwise: {_quoted(otherwise)}"]
        case Task.ANOMALY:
            lines += ["  direction: lower  # GUESSED: the lower the score, the stranger the row"]
            lines += ["decision: {kind: none}  # or a threshold"]
        case _:
            lines += ["decision: {kind: none}  # or a threshold"]
    return lines


def _text(name: str) -> str:
    return name if PLAIN.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
