"""How outcomes belong to predictions: the rules as one pure function, in the order in which docs/lake.md declares them.

`control.outcomes.lake` answers the same question with DuckDB over the lake's files, and a test holds it against this.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

DAY_NS: Final = 86_400_000_000_000
SKEW_NS: Final = 300_000_000_000
"""How long before its prediction an outcome that names it may have happened: clocks differ."""
PATIENCE_NS: Final = 7 * DAY_NS
"""How long an outcome waits for its prediction to come to the lake."""
PINNED: Final = "pinned"


class Rule(NamedTuple):
    """A model's outcome rule, from its document."""

    window_ns: int
    """How long after the prediction a label can arrive."""
    negative: bool
    """Whether no label within the window means the label 0, and not that there is none."""
    entity: str | None
    """The entity by which predictions are found."""


class Prediction(NamedTuple):
    """A row that a caller got."""

    prediction_id: str
    time_ns: int
    model: str
    version: int
    arm: str
    rollout_id: int | None
    step: int
    weight_bps: int
    entity_hash: int | None
    score: float
    decision: str | None


class Outcome(NamedTuple):
    """A row of the lake's outcomes."""

    outcome_id: str
    recorded_ns: int
    gateway_id: str
    prediction_id: str | None
    model: str | None
    entity_hashes: Mapping[str, int]
    event_time_ns: int
    label_number: float | None
    label_text: str | None
    kpis: Mapping[str, float] = MappingProxyType({})

    @property
    def label(self) -> tuple[float | None, str | None]:
        """The label: a number, a text, or neither."""
        return self.label_number, self.label_text

    @property
    def is_label(self) -> bool:
        """Whether it has a label, and not business results alone."""
        return self.label != (None, None)


class Labelled(NamedTuple):
    """A prediction and its label."""

    prediction: Prediction
    label_number: float | None
    label_text: str | None
    arrival_ns: int
    """When the label was recorded; for a label by absence, when the window ended."""
    absent: bool
    """Whether the label is the absence of one."""


class KpiValue(NamedTuple):
    """A business result of a prediction."""

    prediction: Prediction
    name: str
    value: float
    arrival_ns: int


class Fate(StrEnum):
    """What becomes of a row of the lake's outcomes."""

    DUPLICATE = "duplicate"
    """Sent again under an id that was taken."""
    RULELESS = "ruleless"
    """Of a model whose document has no outcome rule."""
    EARLY = "early"
    """Happened before the prediction that it names."""
    LATE = "late"
    """Happened or arrived after the window."""
    WAITING = "waiting"
    """Its prediction is not in the lake, but may still come."""
    UNMATCHED = "unmatched"
    """Its prediction has not come within seven days."""
    MATCHED = "matched"
    """Belongs to a prediction."""


class Counts(NamedTuple):
    """How many there were of each kind."""

    fates: Mapping[Fate, int]
    """Rows of outcomes, by what became of them; each has one fate."""
    superseded: int
    """Of those that matched: labels in whose place a newer one counts."""
    conflicting: int
    """Of those that were superseded: labels that said something else than what counts."""
    absent: int
    """Predictions whose label is the absence of one."""


class Joined(NamedTuple):
    """Predictions with what happened after them, in the order in which it was learnt."""

    labelled: Sequence[Labelled]
    kpis: Sequence[KpiValue]
    counts: Counts


def join(
    predictions: Iterable[Prediction], outcomes: Iterable[Outcome], rules: Mapping[str, Rule], as_of_ns: int
) -> Joined:
    """Joins what was known at a time. `rules` are by model."""
    finder = _Finder(one for one in predictions if one.time_ns <= as_of_ns)
    known = [outcome for outcome in outcomes if outcome.recorded_ns <= as_of_ns]
    taken = _first_of_each(known)
    fates = Counter({Fate.DUPLICATE: len(known) - len(taken)})
    found: defaultdict[Prediction, list[Outcome]] = defaultdict(list)
    for outcome in taken:
        prediction = finder.find(outcome, rules)
        fate = judge(outcome, prediction, rules, as_of_ns)
        fates[fate] += 1
        if fate is Fate.MATCHED and prediction is not None:
            found[prediction].append(outcome)
    labels = {one: [outcome for outcome in reported if outcome.is_label] for one, reported in found.items()}
    labelled = [_labelled(one, reported) for one, reported in labels.items() if reported]
    silent = finder.silent({one.prediction.prediction_id for one in labelled}, rules, as_of_ns)
    kpis = [value for one, reported in found.items() for value in _kpis(one, reported)]
    return Joined(
        sorted([*labelled, *silent], key=lambda one: (one.arrival_ns, one.prediction.prediction_id)),
        sorted(kpis, key=lambda one: (one.arrival_ns, one.prediction.prediction_id, one.name)),
        Counts(+fates, *_replaced(labels.values()), absent=len(silent)),
    )


def judge(outcome: Outcome, prediction: Prediction | None, rules: Mapping[str, Rule], as_of_ns: int) -> Fate:
    """What becomes of an outcome; `prediction` is the one that it belongs to, if that is there."""
    model = outcome.model if prediction is None else prediction.model
    if model is not None and model not in rules:
        return Fate.RULELESS
    if prediction is None or model is None:
        return Fate.WAITING if as_of_ns < outcome.recorded_ns + PATIENCE_NS else Fate.UNMATCHED
    if outcome.event_time_ns < prediction.time_ns - SKEW_NS:
        return Fate.EARLY
    if max(outcome.event_time_ns, outcome.recorded_ns) > prediction.time_ns + rules[model].window_ns:
        return Fate.LATE
    return Fate.MATCHED


class _Finder:
    """Predictions by id, and those of each entity in the order of time."""

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self._by_id: dict[str, Prediction] = {}
        self._by_entity: defaultdict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
        for one in predictions:
            self._by_id[one.prediction_id] = one
            if one.entity_hash is not None and one.arm != PINNED:
                self._by_entity[one.model, one.entity_hash].append((one.time_ns, one.prediction_id))
        for times in self._by_entity.values():
            times.sort()

    def find(self, outcome: Outcome, rules: Mapping[str, Rule]) -> Prediction | None:
        """The prediction that an outcome names, or else the last one for its entity before it happened."""
        if outcome.prediction_id is not None:
            return self._by_id.get(outcome.prediction_id)
        if outcome.model is None or (rule := rules.get(outcome.model)) is None or rule.entity is None:
            return None
        times = self._by_entity.get((outcome.model, outcome.entity_hashes.get(rule.entity, -1)), [])
        place = bisect_right(times, (outcome.event_time_ns, "\U0010ffff"))
        return self._by_id[times[place - 1][1]] if place else None

    def silent(self, heard: Container[str], rules: Mapping[str, Rule], as_of_ns: int) -> list[Labelled]:
        """Predictions for which no label means 0: the window has ended, and none newer took their place before."""
        return [
            Labelled(one, 0.0, None, one.time_ns + rules[one.model].window_ns, absent=True)
            for name, one in self._by_id.items()
            if name not in heard and self._stands(one, rules.get(one.model), as_of_ns)
        ]

    def _stands(self, one: Prediction, rule: Rule | None, as_of_ns: int) -> bool:
        if rule is None or not rule.negative or one.arm == PINNED or as_of_ns < one.time_ns + rule.window_ns:
            return False
        if one.entity_hash is None:
            return True
        times = self._by_entity[one.model, one.entity_hash]
        place = bisect_right(times, (one.time_ns, one.prediction_id))
        return place == len(times) or times[place][0] > one.time_ns + rule.window_ns


def _first_of_each(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Of the outcomes under one id the one that was recorded first."""
    first: dict[str, Outcome] = {}
    for outcome in outcomes:
        former = first.setdefault(outcome.outcome_id, outcome)
        if _age(outcome) < _age(former):
            first[outcome.outcome_id] = outcome
    return list(first.values())


def _age(outcome: Outcome) -> tuple[int, str, int, str, str, float, str]:
    """A total order, so that the result does not depend on the order of files."""
    return (
        outcome.recorded_ns,
        outcome.gateway_id,
        outcome.event_time_ns,
        outcome.prediction_id or "",
        outcome.model or "",
        float("-inf") if outcome.label_number is None else outcome.label_number,
        outcome.label_text or "",
    )


def _newest(outcome: Outcome) -> tuple[int, int, str]:
    return outcome.event_time_ns, outcome.recorded_ns, outcome.outcome_id


def _labelled(prediction: Prediction, labels: Sequence[Outcome]) -> Labelled:
    newest = max(labels, key=_newest)
    return Labelled(prediction, *newest.label, newest.recorded_ns, absent=False)


def _replaced(labels: Iterable[Sequence[Outcome]]) -> tuple[int, int]:
    """How many labels a newer one replaces, and how many of those said something else."""
    superseded = conflicting = 0
    for reported in filter(None, labels):
        counts = max(reported, key=_newest).label
        superseded += len(reported) - 1
        conflicting += sum(outcome.label != counts for outcome in reported)
    return superseded, conflicting


def _kpis(prediction: Prediction, reported: Sequence[Outcome]) -> Iterable[KpiValue]:
    newest: dict[str, Outcome] = {}
    for outcome in sorted(reported, key=_newest):
        newest |= dict.fromkeys(outcome.kpis, outcome)
    return [KpiValue(prediction, name, one.kpis[name], one.recorded_ns) for name, one in newest.items()]
