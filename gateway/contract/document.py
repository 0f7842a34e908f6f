"""The model document: everything that Interlock must know of a model version beside its bytes."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gateway.contract.schema import Document, Dtype, Name, Scalar, Sha256, check_scalar


class Task(StrEnum):
    """What the score means."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    RANKING = "ranking"
    ANOMALY = "anomaly"


class Tier(StrEnum):
    """How much evidence and how many people a version needs."""

    LOW = "low"
    STANDARD = "standard"
    REGULATED = "regulated"


class Owner(Document):
    """Who answers for a model."""

    person: Annotated[str, Field(min_length=1)]
    """A person, by the name of their account."""
    team: str = ""
    """Their team."""


class StoredInput(Document):
    """A graph input's column that is read from the online store."""

    view: Name
    """The view."""
    feature: Name
    """The feature of that view."""
    feeds: Annotated[str, Field(min_length=1)]
    """The graph input that it feeds; columns that feed the same one are put side by side in the order given here."""

    @property
    def column(self) -> str:
        """Its name in golden rows: view.feature."""
        return f"{self.view}.{self.feature}"


class RequestInput(Document):
    """A graph input's column that the caller sends with the request."""

    request: Name
    """Its name in the request."""
    type: Dtype
    """Its type."""
    feeds: Annotated[str, Field(min_length=1)]
    """The graph input that it feeds."""
    default: Scalar | None = None
    """Used when the caller does not send it; without one, the caller must."""

    @field_validator("default")
    @classmethod
    def _default_has_the_type(cls, value: Scalar | None, info: ValidationInfo) -> Scalar | None:
        return check_scalar(info.data["type"], value) if "type" in info.data else value

    @property
    def column(self) -> str:
        """Its name in golden rows."""
        return self.request


class Output(Document):
    """How graph outputs map to the score."""

    score: Annotated[str, Field(min_length=1)]
    """The graph output that holds the score or the scores."""
    column: Annotated[int, Field(ge=0)] | None = None
    """For binary, regression and anomaly: which column of that output is the score, where it has several."""
    labels: tuple[str, ...] = ()
    """For multiclass and ranking: the label of each column of that output."""
    direction: Literal["higher", "lower"] = "higher"
    """Which end of the score is the one that the model looks for."""


class Threshold(Document):
    """Decides by one number: `hit` where the score lies at it or beyond it in the output's direction."""

    kind: Literal["threshold"] = "threshold"
    threshold: float
    """The number, in the score's unit."""
    hit: str
    """The decision at or beyond the threshold."""
    otherwise: str
    """The decision short of it."""


class Argmax(Document):
    """Decides for the label with the highest score."""

    kind: Literal["argmax"] = "argmax"


class TopK(Document):
    """Decides for the best label and lists the k best."""

    kind: Literal["top_k"] = "top_k"
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    """How many labels a reply lists."""


class NoDecision(Document):
    """Leaves the decision to the caller."""

    kind: Literal["none"] = "none"


class Outcome(Document):
    """What happens later, and what it means when nothing is heard."""

    label: Name
    """Name of the label."""
    window_days: Annotated[int, Field(gt=0)]
    """Days after the prediction in which the label can arrive."""
    absence: Literal["negative", "unlabelled"] = "unlabelled"
    """What no label within the window means."""


class Fallback(Document):
    """What callers get, marked as such, while an operator has stopped the model; without one they get an error."""

    score: Annotated[float, Field(allow_inf_nan=False)]
    """The score, in the unit of the model's scores."""
    decision: str | None = None
    """The decision, one of those that the model makes; for a model that makes none it is left out."""


class ModelDocument(Document):
    """The content of model.yaml."""

    name: Name
    """The model's name, by which callers ask for it."""
    task: Task
    """What the score means."""
    purpose: Annotated[str, Field(min_length=1)]
    """What the model is for, in a sentence."""
    owner: Owner
    """Who answers for it."""
    tier: Tier = Tier.STANDARD
    """How much evidence and how many people a version needs."""
    entities: tuple[Name, ...] = ()
    """The entities whose keys a request gives; none for a model that takes request-time inputs only."""
    assign_by: Name | None = None
    """The entity whose key assigns the arm; the first when absent."""
    views: dict[Name, Sha256] = Field(default_factory=dict)
    """The feature views that the version was trained on, each pinned by the hash of its definition."""
    inputs: Annotated[tuple[StoredInput | RequestInput, ...], Field(min_length=1, max_length=4096)]
    """The columns of the graph's inputs, in order."""
    output: Output
    """How graph outputs map to the score."""
    decision: Annotated[Threshold | Argmax | TopK | NoDecision, Field(discriminator="kind")] = NoDecision()
    """How the score becomes a decision."""
    nan: Literal["allow", "reject"] = "reject"
    """Whether a request-time float may be NaN or infinite."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-5
    """How far a golden row's result may lie from the expected one: absolute, and relative where that is beyond 1."""
    reason_texts: dict[str, str] = Field(default_factory=dict)
    """What to tell a customer when this input (by its column name) drove the decision."""
    segments: tuple[str, ...] = ()
    """Inputs (by their column names) to break figures down by."""
    fallback: Fallback | None = None
    """What callers get while the model is stopped; without it they get MODEL_STOPPED."""
    outcome: Outcome | None = None
    """What happens later."""
    log_features: bool = False
    """Whether the prediction log keeps the feature and request values of each row; off, since they may be personal."""
    control_share_bps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Entities that are to get business as usual instead of a score, in basis points, to measure the model's uplift.
    Declared here so that it is approved with the rest; gateways do not act on it yet."""
    max_age_days: Annotated[int, Field(gt=0)] | None = None
    """Days after which the version should be retrained."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self

    @cached_property
    def entity_set(self) -> frozenset[str]:
        """The entities, to compare with those of a request."""
        return frozenset(self.entities)

    @cached_property
    def stored(self) -> tuple[StoredInput, ...]:
        """The inputs read from the online store, in order."""
        return tuple(item for item in self.inputs if isinstance(item, StoredInput))

    @cached_property
    def requested(self) -> tuple[RequestInput, ...]:
        """The inputs that the caller sends, in order."""
        return tuple(item for item in self.inputs if isinstance(item, RequestInput))

    @cached_property
    def decision_labels(self) -> tuple[str, ...]:
        """Every decision that there can be, in the order by which the journal numbers them."""
        match self.decision:
            case Threshold(hit=hit, otherwise=otherwise):
                return tuple(dict.fromkeys((hit, otherwise)))
            case _:
                return tuple(dict.fromkeys(self.output.labels))


def _contradictions(document: ModelDocument) -> list[str]:
    columns = [item.column for item in document.inputs]
    used = {item.view for item in document.stored}
    found = [f"inputs: {name} is listed twice" for name in sorted({c for c in columns if columns.count(c) > 1})]
    found += [f"views: {name} is used by inputs but not pinned" for name in sorted(used - set(document.views))]
    found += [f"views: {name} is pinned but no input uses it" for name in sorted(set(document.views) - used)]
    if len(set(document.entities)) != len(document.entities):
        found.append("entities: listed twice")
    if document.assign_by is not None and document.assign_by not in document.entities:
        found.append(f"assign_by: {document.assign_by} is not among entities")
    if used and not document.entities:
        found.append("entities: stored features need the entity that their view is keyed by")
    found += [f"segments: {name} is not an input" for name in document.segments if name not in columns]
    found += [f"reason_texts: {name} is not an input" for name in document.reason_texts if name not in columns]
    return found + _output_contradictions(document) + _fallback_contradictions(document)


def _fallback_contradictions(document: ModelDocument) -> list[str]:
    fallback, rule = document.fallback, document.decision
    if fallback is None:
        return []
    if document.task is Task.RANKING:
        return ["fallback: a ranking model has none, because one score ranks nothing"]
    match rule:
        case Threshold():
            able: tuple[str | None, ...] = (rule.hit, rule.otherwise)
        case Argmax():
            able = document.output.labels
        case _:
            able = (None,)
    if fallback.decision in able:
        return []
    wanted = "must be left out" if able == (None,) else f"must be one of {', '.join(map(str, able))}"
    return [f"fallback.decision: {wanted}, as the model decides"]


def _output_contradictions(document: ModelDocument) -> list[str]:
    labels, kind, task = document.output.labels, document.decision.kind, document.task
    found = []
    if task is Task.MULTICLASS and len(labels) < 2:
        found.append("output.labels: a multiclass model needs the label of each class")
    if task in (Task.BINARY, Task.REGRESSION, Task.ANOMALY) and labels:
        found.append(f"output.labels: a {task} model has one score; name its column with output.column instead")
    if task in (Task.MULTICLASS, Task.RANKING) and document.output.column is not None and labels:
        found.append("output.column: contradicts output.labels")
    if len(set(labels)) != len(labels):
        found.append("output.labels: a label is listed twice")
    allowed = DECISIONS[task]
    if kind not in allowed:
        found.append(f"decision.kind: a {task} model takes one of {', '.join(allowed)}")
    if kind == "top_k" and not labels:
        found.append("decision.kind: top_k needs output.labels")
    return found


DECISIONS = {
    Task.BINARY: ("threshold", "none"),
    Task.MULTICLASS: ("argmax", "none"),
    Task.REGRESSION: ("threshold", "none"),
    Task.RANKING: ("top_k", "none"),
    Task.ANOMALY: ("threshold", "none"),
}


def document_from_json(text: str) -> ModelDocument:
    """Reads a canonical document."""
    return ModelDocument.model_validate_json(text)
