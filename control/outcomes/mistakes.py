"""What a labelled mistake is, by the model's document; and the ordered list of them that evidence is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from control.outcomes.join import DAY_NS, Labelled, Rule
from gateway.contract.document import ModelDocument, Task, Threshold

LIKELY: Final = 0.5
"""The probability from which a binary model without a decision says yes."""


class Judged(NamedTuple):
    """A labelled row of a rollout, in the order of arrival."""

    prediction_id: str
    entity_hash: int | None
    arm: str
    weight_bps: int
    step: int
    arrival_ns: int
    mistake: bool


def rule_of(document: ModelDocument) -> Rule | None:
    """The outcome rule of a document; None where it has none."""
    if document.outcome is None:
        return None
    return Rule(
        window_ns=document.outcome.window_days * DAY_NS,
        negative=document.outcome.absence == "negative",
        entity=document.assign_by or next(iter(document.entities), None),
    )


def mistaken(document: ModelDocument, labelled: Labelled) -> bool | None:
    """Whether the prediction was wrong; None where prediction and label cannot be compared."""
    prediction, number, text = labelled.prediction, labelled.label_number, labelled.label_text
    match document.task, document.decision:
        case ((Task.MULTICLASS | Task.RANKING), _):
            return None if text is None or not prediction.decision else prediction.decision != text
        case _, Threshold() as decision:
            expected = _expected(document, decision, number, text)
            return None if expected is None or not prediction.decision else prediction.decision != expected
        case Task.BINARY, _:
            return None if number is None else _beyond(document, prediction.score, LIKELY) != (number >= LIKELY)
        case _:
            return None  # without a threshold nobody has said how far off is wrong


def _expected(document: ModelDocument, decision: Threshold, number: float | None, text: str | None) -> str | None:
    """The decision that the label calls for."""
    if text is not None:
        return text if text in (decision.hit, decision.otherwise) else None
    if number is None:
        return None
    measured = document.task is Task.REGRESSION
    hit = _beyond(document, number, decision.threshold) if measured else number >= LIKELY
    return decision.hit if hit else decision.otherwise


def _beyond(document: ModelDocument, value: float, bound: float) -> bool:
    return value >= bound if document.output.direction == "higher" else value <= bound


def judged(labelled: Iterable[Labelled], documents: Mapping[int, ModelDocument]) -> list[Judged]:
    """The rows that can be compared, in the order in which their labels arrived. `documents` are by version."""
    found = []
    for one in sorted(labelled, key=lambda one: (one.arrival_ns, one.prediction.prediction_id)):
        row, document = one.prediction, documents.get(one.prediction.version)
        if document is not None and (mistake := mistaken(document, one)) is not None:
            found.append(
                Judged(row.prediction_id, row.entity_hash, row.arm, row.weight_bps, row.step, one.arrival_ns, mistake)
            )
    return found
