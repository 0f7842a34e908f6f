"""From joined outcomes to evidence: a rollout's rows, in the order in which one learnt of them, and their counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from control.outcomes.join import KpiValue, Labelled, Prediction
from control.outcomes.mistakes import mistaken
from gateway.contract.document import ModelDocument
from gateway.contract.evidence import Arms, Counts, merged
from gateway.contract.routing import WHOLE_BPS

CHALLENGER: Final = "challenger"


class Judged(NamedTuple):
    """A row of a rollout of which one has learnt whether it was bad."""

    prediction_id: str
    entity_hash: int | None
    arm: str
    weight_bps: int
    step: int
    arrival_ns: int
    bad: bool

    @property
    def unit(self) -> str:
        """What was assigned to an arm: the entity, or the request where there is none. 16 hexadecimal digits first."""
        return self.prediction_id if self.entity_hash is None else f"{self.entity_hash:016x}"


class Pair(NamedTuple):
    """What two versions said of one row."""

    prediction_id: str
    version: int
    """The shadow."""
    score: float
    decision: str | None
    other_version: int
    other_score: float
    other_decision: str | None


class Counted(NamedTuple):
    """Units per arm, by the weight in force: what the judge is given of one metric."""

    first_bad: Counts
    """By their first bad row in the rollout."""
    scored: Counts
    """By their first row in the step, bad or not."""
    bad: Counts
    """Those of them whose first row in the step was bad."""
    known: Counts
    """By their first row in the rollout of which one has learnt anything: whether both arms are told of alike."""


def labelled_rows(
    labelled: Iterable[Labelled], documents: Mapping[int, ModelDocument], error_above: float | None = None
) -> list[Judged]:
    """The labelled rows that can be compared, by arrival. `documents` are by version."""
    judged = (
        (one, mistaken(document, one, error_above))
        for one in labelled
        if (document := documents.get(one.prediction.version)) is not None
    )
    return _ordered(_judged(one.prediction, one.arrival_ns, bad) for one, bad in judged if bad is not None)


def business_rows(kpis: Iterable[KpiValue], name: str, bad_below: float) -> list[Judged]:
    """The rows with that business result, by arrival: bad where it is under a bound."""
    return _ordered(_judged(one.prediction, one.arrival_ns, one.value < bad_below) for one in kpis if one.name == name)


def mistaken_alone(
    labelled: Iterable[Labelled],
    pairs: Iterable[Pair],
    documents: Mapping[int, ModelDocument],
    error_above: float | None = None,
) -> Arms:
    """Labelled pairs of a shadow in which one version alone was wrong: the challenger, and the other one.

    A unit counts once, with the first pair, by the label's arrival, in which they differ.
    """
    by_id = {pair.prediction_id: pair for pair in pairs}
    first: dict[int | str, bool] = {}
    for one in sorted(labelled, key=lambda one: (one.arrival_ns, one.prediction.prediction_id)):
        if (pair := by_id.get(one.prediction.prediction_id)) is None:
            continue
        wrong = [_wrong(one, said, documents, error_above) for said in (pair[1:4], pair[4:7])]
        if None not in wrong and wrong[0] is not wrong[1]:
            row = one.prediction
            first.setdefault(row.prediction_id if row.entity_hash is None else row.entity_hash, bool(wrong[0]))
    return Arms(sum(first.values()), len(first) - sum(first.values()))


def _wrong(
    one: Labelled, said: tuple[Any, ...], documents: Mapping[int, ModelDocument], error_above: float | None
) -> bool | None:
    """Whether a version was wrong that said this (version, score and decision) of the same row."""
    version, score, decision = said
    if (document := documents.get(version)) is None:
        return None
    prediction = one.prediction._replace(version=version, score=score, decision=decision)
    return mistaken(document, one._replace(prediction=prediction), error_above)


def counted(rows: Iterable[Judged], step: int, sample_bps: int = WHOLE_BPS) -> Counted:
    """Counts each unit once, by arrival; of a share of the units, chosen by their hash."""
    first_bad: dict[str, Judged] = {}
    first: dict[str, Judged] = {}
    known: dict[str, Judged] = {}
    for row in rows:
        if int(row.unit[-16:], 16) % WHOLE_BPS < sample_bps:
            known.setdefault(row.unit, row)
            if row.bad:
                first_bad.setdefault(row.unit, row)
            if row.step == step:
                first.setdefault(row.unit, row)
    return Counted(
        _arms(first_bad.values()),
        _arms(first.values()),
        _arms(row for row in first.values() if row.bad),
        _arms(known.values()),
    )


def _arms(rows: Iterable[Judged]) -> Counts:
    return merged({row.weight_bps: Arms(1, 0) if row.arm == CHALLENGER else Arms(0, 1)} for row in rows)


def _judged(row: Prediction, arrival_ns: int, bad: bool) -> Judged:
    return Judged(row.prediction_id, row.entity_hash, row.arm, row.weight_bps, row.step, arrival_ns, bad)


def _ordered(rows: Iterable[Judged]) -> list[Judged]:
    return sorted(rows, key=lambda row: (row.arrival_ns, row.prediction_id))
