"""What outcomes say of the rollouts that run.

Read from the lake by a thread of its own, since a query takes longer than a judgement may; a judgement takes what was
read last.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from control.outcomes import lake as lakes
from control.outcomes.evidence import Counted, business_rows, counted, labelled_rows, mistaken_alone
from control.rollout.case import Evidence, Phase, StepCounts
from control.rollout.policy import Metric
from control.rollout.records import find_version
from control.rollout.rollout_records import running
from control.rollout.rollouts import Rollout
from control.store.store import Store
from control.telemetry import log
from gateway.contract.document import ModelDocument
from gateway.contract.evidence import Arms

PAUSE_S: Final = 2.0
"""Between two readings, at least; and at least ten times as long as the last one took."""
STOP_S: Final = 5.0

Documents = Mapping[int, ModelDocument]


class Known(NamedTuple):
    """What was read of one rollout."""

    step: int
    """The step that its counts by first rows are of."""
    counts: Mapping[Metric, Counted]
    mistaken_alone: Arms


class LabelReader:
    """Labelled evidence, as new as the last reading; `tell` is called when it has changed."""

    def __init__(self, store: Store, lake: Path, tell: Callable[[], None]) -> None:
        self._store = store
        self._lake = lake
        self._tell = tell
        self._known: dict[int, Known] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="labels", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the reading under way; one that takes long is left to itself."""
        self._end.set()
        self._thread.join(STOP_S)

    def added(self, rollout: Rollout, evidence: Evidence) -> Evidence:
        """The evidence of gateways, with what outcomes say beside it."""
        known = self._known.get(rollout.rollout_id)
        return evidence if known is None else with_labels(evidence, known, step_number(rollout))

    def read(self) -> None:
        """Reads what is to be known of every rollout that runs."""
        if not self._lake.is_dir():
            return
        with self._store.read() as connection:
            watched = [
                (one, {n: find_version(connection, one.model, n).document for n in (one.control, one.challenger)})
                for one in running(connection)
                if one.policy.metrics.labels or one.policy.metrics.business
            ]
        found = {one.rollout_id: read_rollout(self._lake, one, documents) for one, documents in watched}
        changed = found != self._known
        self._known = found
        if changed:
            self._tell()

    def _work(self) -> None:
        pause_s = PAUSE_S
        while not self._end.wait(pause_s):
            began = time.monotonic()
            try:
                self.read()
            except Exception as error:  # a file that is not one, a disk that fails: the next reading comes
                log(logging.ERROR, "labels_not_read", error=repr(error))
            pause_s = max(PAUSE_S, 10 * (time.monotonic() - began))


def step_number(rollout: Rollout) -> int:
    """The step in force as gateways number it: from 1, and the holdback after the last."""
    return rollout.step + 1 + (rollout.phase is Phase.HOLDBACK)


def read_rollout(lake: Path, rollout: Rollout, documents: Documents) -> Known:
    """What the lake says of a rollout: of its time in shadow by pairs, whose labels may still come, then by arms."""
    labelled = lakes.LabelledRollout(rollout.model, rollout.rollout_id, rollout.started_ns, documents)
    alone = _pairs(lake, rollout, labelled)
    if rollout.phase is Phase.SHADOW:
        return Known(step_number(rollout), {}, alone)
    joined, step = lakes.of_rollout(lake, labelled, time.time_ns()), step_number(rollout)
    labels, business = rollout.policy.metrics.labels, rollout.policy.metrics.business
    counts: dict[Metric, Counted] = {}
    if labels is not None:
        rows = labelled_rows(joined.labelled, documents, labels.error_above)
        counts[Metric.LABELS] = counted(rows, step, labels.sample_bps)
    if business is not None:
        rows = business_rows(joined.kpis, business.kpi, business.bad_below)
        counts[Metric.BUSINESS] = counted(rows, step, business.sample_bps)
    return Known(step, counts, alone)


def _pairs(lake: Path, rollout: Rollout, labelled: lakes.LabelledRollout) -> Arms:
    labels = rollout.policy.metrics.labels
    if labels is None or not (pairs := lakes.pairs_of(lake, labelled)):
        return Arms()
    known = lakes.of_model(lake, labelled, time.time_ns()).labelled
    return mistaken_alone(known, pairs, labelled.documents, labels.error_above)


def with_labels(evidence: Evidence, known: Known, step: int) -> Evidence:
    """Evidence with these counts; those by first rows are of one step, and say nothing of another."""
    first_bad = evidence.first_bad | {metric: dict(counts.first_bad) for metric, counts in known.counts.items()}
    steps = {
        metric: StepCounts(scored=dict(counts.scored), bad=dict(counts.bad))
        for metric, counts in known.counts.items()
        if metric in evidence.step and known.step == step
    }
    return evidence.model_copy(
        update={
            "first_bad": dict(sorted(first_bad.items())),
            "told": {metric: dict(counts.known) for metric, counts in sorted(known.counts.items())},
            "step": evidence.step | steps,
            "mistaken_alone": known.mistaken_alone,
        }
    )
