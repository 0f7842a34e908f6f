"""What a labelled mistake is, by the model's document."""

from __future__ import annotations

from typing import Final

from control.outcomes.join import DAY_NS, Labelled, Rule
from gateway.contract.document import ModelDocument, Task, Threshold, TopK

LIKELY: Final = 0.5
"""The probability from which a binary model without a decision says yes."""


def rule_of(document: ModelDocument) -> Rule | None:
    """The outcome rule of a document; None where it has none."""
    if document.outcome is None:
        return None
    return Rule(
        window_ns=document.outcome.window_days * DAY_NS,
        negative=document.outcome.absence == "negative",
        entity=document.assign_by or next(iter(document.entities), None),
    )


def mistaken(document: ModelDocument, labelled: Labelled, error_above: float | None = None) -> bool | None:
    """Whether the prediction was wrong; None where prediction and label cannot be compared.

    `error_above` is the absolute error beyond which a regression's score is a mistake.
    """
    prediction, number, text = labelled.prediction, labelled.label_number, labelled.label_text
    match document.task, document.decision:
        case Task.REGRESSION, _:
            return None if number is None or error_above is None else abs(prediction.score - number) > error_above
        case Task.RANKING, TopK(k=k) if k > 1:
            return None  # the log has the best item, and not the others that were listed
        case ((Task.MULTICLASS | Task.RANKING), _):
            return None if text is None or not prediction.decision else prediction.decision != text
        case _, Threshold() as decision:
            expected = _expected(decision, number, text)
            return None if expected is None or not prediction.decision else prediction.decision != expected
        case Task.BINARY, _:
            return None if number is None else _likely(document, prediction.score) != (number >= LIKELY)
        case _:
            return None  # an anomaly's score has no scale on which half would be much


def _expected(decision: Threshold, number: float | None, text: str | None) -> str | None:
    """The decision that the label calls for."""
    if text is not None:
        return text if text in (decision.hit, decision.otherwise) else None
    if number is None:
        return None
    return decision.hit if number >= LIKELY else decision.otherwise


def _likely(document: ModelDocument, score: float) -> bool:
    return score >= LIKELY if document.output.direction == "higher" else score <= LIKELY
