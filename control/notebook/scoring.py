"""Scores of a sample from a gateway: many rows in few calls, and an answer that reads like a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from control.notebook.sample import Sample, is_missing, no_column, slug
from control.notebook.table import Table
from control.services import Gateway
from gateway.contract.document import ModelDocument, RequestInput
from gateway.contract.schema import Dtype
from gateway.v1 import scoring_pb2

BATCH_ROWS: Final = 256
"""As many as a gateway takes in one call."""
DEADLINE_S: Final = 10.0
LISTS: Final[Mapping[Dtype, str]] = {
    Dtype.FLOAT32: "numbers",
    Dtype.INT64: "integers",
    Dtype.STRING: "texts",
    Dtype.BOOL: "flags",
}
"""The list of an InputColumn that takes each type."""


@dataclass(frozen=True, slots=True, repr=False)
class Scores:
    """What a gateway answered to each row, in order."""

    model: str
    scores: list[float]
    """NaN where the row is in `errors`."""
    decisions: list[str]
    """Empty where the model decides nothing, and for a row in `errors` the empty text."""
    rankings: list[list[tuple[str, float]]]
    """For multiclass and ranking: labels with their scores, best first; else empty."""
    versions: list[int]
    """0 where the row is in `errors`."""
    prediction_ids: list[str]
    """What outcomes are reported by."""
    flags: dict[int, list[str]]
    """By row, where there is something to know: unapproved, entity_unknown, features_stale."""
    errors: dict[int, str]
    """By row: why it has no score."""

    def __len__(self) -> int:
        return len(self.scores)

    def table(self) -> Table:
        """The answers as a table, with `frame()` for pandas."""
        rows = [
            (
                self.scores[row],
                *([self.decisions[row]] if self.decisions else []),
                self.versions[row] or None,
                ", ".join(self.flags.get(row, ())),
                self.errors.get(row, ""),
            )
            for row in range(len(self))
        ]
        columns = ("score", *(["decision"] if self.decisions else []), "version", "flags", "error")
        used = [place for place, name in enumerate(columns) if name in COLUMNS or any(row[place] for row in rows)]
        title = f"{len(self) - len(self.errors)} of {len(self)} rows scored by {self.model}"
        return Table([columns[place] for place in used], [[row[place] for place in used] for row in rows], title)

    def frame(self) -> Any:
        """The answers as a pandas DataFrame, where pandas is installed."""
        return self.table().frame()

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


COLUMNS: Final = ("score", "decision", "version")
"""Columns that are shown whatever is in them."""


def score(gateway: Gateway, document: ModelDocument, version: int, sample: Sample) -> Scores:
    """Scores every row; raises ValueError where the sample does not fit, CallFailed where no gateway answers."""
    found = Scores(document.name, [], [], [], [], [], {}, {})
    for request in requests(document, version, sample):
        _add(found, gateway.score_batch(request, DEADLINE_S))
    return found


def requests(document: ModelDocument, version: int, sample: Sample) -> Iterator[scoring_pb2.ScoreBatchRequest]:
    """The sample as calls of as many rows as a gateway takes."""
    by_name = {slug(name): name for name in sample.columns} | {name: name for name in sample.columns}
    keys = {entity: _keys(entity, by_name, sample) for entity in document.entities}
    inputs = {item: _values(item, values) for item, values in _given(document, by_name, sample)}
    for start in range(0, sample.n, BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        request = scoring_pb2.ScoreBatchRequest(model=document.name, version=version)
        for entity, column in keys.items():
            request.entities.add(entity=entity, keys=column[part])
        for item, column in inputs.items():
            getattr(request.inputs.add(name=item.request), LISTS[item.type]).extend(column[part])
        yield request


def _given(
    document: ModelDocument, by_name: Mapping[str, str], sample: Sample
) -> Iterator[tuple[RequestInput, list[Any]]]:
    """The request-time inputs that the sample has; those it lacks take their default, or are missing."""
    wanted = document.requested
    if not sample.named:
        if len(sample.columns) != len(wanted):
            raise ValueError(
                f"the rows have {len(sample.columns)} columns without names, and {document.name} takes {len(wanted)}: "
                f"{', '.join(item.request for item in wanted)}"
            )
        yield from zip(wanted, sample.columns.values(), strict=True)
        return
    if absent := [item.request for item in wanted if item.request not in by_name and item.default is None]:
        raise no_column(absent, document.name, sample, len(wanted))
    yield from ((item, sample.columns[by_name[item.request]]) for item in wanted if item.request in by_name)


def _keys(entity: str, by_name: Mapping[str, str], sample: Sample) -> list[str]:
    if entity not in by_name:
        raise ValueError(f"the rows have no column {entity} with the keys; they have {', '.join(sample.columns)}")
    return [str(key) for key in sample.columns[by_name[entity]]]


def _values(item: RequestInput, values: Sequence[Any]) -> list[Any]:
    return [_value(item, value, row) for row, value in enumerate(values)]


def _value(item: RequestInput, value: Any, row: int) -> Any:
    if is_missing(value):
        if item.default is not None:
            return item.default
        if item.type is Dtype.FLOAT32:
            return math.nan  # the document says whether it takes that
        raise ValueError(f"row {row + 1} has no {item.request}, and its document declares no default")
    try:
        match item.type:
            case Dtype.FLOAT32:
                return float(value)
            case Dtype.INT64 if int(value) == float(value):
                return int(value)
            case Dtype.BOOL:
                return bool(value)
            case Dtype.STRING:
                return str(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"row {row + 1} has {value!r:.80} for {item.request}, which is no {item.type}")


def _add(found: Scores, answer: scoring_pb2.ScoreBatchResponse) -> None:
    start = len(found.scores)
    found.scores.extend(answer.scores)
    found.decisions.extend(answer.decisions)
    found.rankings.extend([(item.label, item.score) for item in row.ranking] for row in answer.rankings)
    found.versions.extend(answer.versions)
    found.prediction_ids.extend(answer.prediction_ids)
    for marked in answer.flags:
        found.flags[start + marked.row] = [_flag(flag) for flag in marked.flags]
    for error in answer.errors:
        found.errors[start + error.row] = f"{error.reason}: {error.message}"
        if found.decisions:
            found.decisions[start + error.row] = ""


def _flag(number: Any) -> str:
    return scoring_pb2.Flag.Name(number).removeprefix("FLAG_").lower()
