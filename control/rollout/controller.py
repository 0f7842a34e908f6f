"""The controller: observe, judge, commit, publish, for every rollout that runs. The only part of it with a clock."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from control.rollout import conduct
from control.rollout.case import Case, Flags, Judgement, Phase, Verdict
from control.rollout.forecast import Traffic
from control.rollout.hub import Hub
from control.rollout.judge import judge
from control.rollout.labels import LabelReader, step_number
from control.rollout.policy import Policy
from control.rollout.records import approvers, find_version
from control.rollout.rollout_records import (
    EvidenceRow,
    Head,
    all_units,
    find_rollout,
    followed,
    heads,
    keep_units,
    running,
    save_head,
)
from control.rollout.rollouts import Outcome, Rollout
from control.rollout.tally import Tally, mirrored, shadow_report
from control.store.store import Store, Unit
from control.telemetry import log

ACTOR: Final = "controller"
LOOK_S: Final = 1.0
"""How often rollouts are judged when no evidence comes."""
LEAST_S: Final = 0.05
"""How long evidence is collected before it is judged together."""
SILENT_NS: Final = 10_000_000_000
"""How old a gateway's last report may be: observers report every second."""
GRACE_NS: Final = 10_000_000_000
"""How long a gateway that begins to serve a challenger has until its first report is missed."""


class Judged(NamedTuple):
    """The last judgement of a rollout, and what it rests on."""

    case: Case
    judgement: Judgement


class Controller:
    """Judges rollouts. Reports may come from any thread; moves are made one at a time."""

    def __init__(self, store: Store, hub: Hub, publish: Callable[[], None], lake: Path) -> None:
        self._store = store
        self._hub = hub
        self.publish = publish
        self._tallies: dict[int, Tally] = {}
        self._judged: dict[int, Judged] = {}
        self._noted: dict[int, tuple[str, ...]] = {}
        self._counting = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._labels = LabelReader(store, lake, self._wake.set)
        self._thread = threading.Thread(target=self._work, name="controller", daemon=True)

    def start(self) -> None:
        """Begins to judge."""
        self._labels.start()
        self._thread.start()

    def stop(self) -> None:
        """Ends after the judgement under way."""
        self._stopping = True
        self._wake.set()
        self._labels.stop()
        self._thread.join()

    def report(self, rollout_id: int, head: Head, first_number: int, rows: list[EvidenceRow]) -> int:
        """Keeps what a gateway counted, durably, each number once; returns the last number that is kept.

        A report with a gap before it keeps nothing: the gateway begins again after the number that is returned.
        """
        with self._counting:
            with self._store.unit(f"gateway {head.gateway_id}") as unit:
                rollout = find_rollout(unit.connection, rollout_id)
                if rollout.outcome:
                    return first_number + len(rows) - 1  # nothing is kept of a rollout that is over, or asked for again
                old = heads(unit.connection, rollout_id).get(head.gateway_id, Head(head.gateway_id))
                if first_number > old.number + 1:
                    return old.number
                new = keep_units(unit, rollout_id, rows[old.number + 1 - first_number :])
                kept = followed(old, head, first_number + len(rows) - 1)._replace(received_ns=unit.now_ns)
                save_head(unit, rollout_id, kept)
            # Of what is committed, and while nobody else counts or reads: sums are not made in one step.
            if new and rollout_id in self._tallies:
                self._tallies[rollout_id].add(new)
        if new:
            self._wake.set()
        return kept.number

    def judged(self, rollout_id: int) -> Judged | None:
        """The last judgement of a rollout since this process began."""
        return self._judged.get(rollout_id)

    def facts(self, rollout_id: int) -> dict[str, Any]:
        """The last judgement, for the audit entry of a person's decision."""
        found = self._judged.get(rollout_id)
        return {} if found is None else _facts(found)

    def traffic(self, model: str) -> Traffic | None:
        """What the model's requests were like lately, over all gateways; None where nobody knows."""
        return self._hub.traffic(model)

    def forgive_losses(self, unit: Unit, rollouts: Iterable[Rollout]) -> None:
        """Lets evidence count again from here on, after rows were lost and a person said to go on."""
        for rollout in rollouts:
            for head in heads(unit.connection, rollout.rollout_id).values():
                save_head(unit, rollout.rollout_id, head._replace(rows_lost_before=head.rows_lost))

    def _work(self) -> None:
        while not self._stopping:
            self._wake.wait(LOOK_S)
            time.sleep(LEAST_S)
            self._wake.clear()
            try:
                self.look()
            except Exception as error:  # a store that is busy now; the next look comes
                log(logging.ERROR, "rollouts_not_judged", error=repr(error))

    def look(self) -> None:
        """Judges every rollout once, and acts; raises afterwards what kept it from some."""
        with self._store.read() as connection:
            rollouts = running(connection)
        with self._counting:
            for gone in self._tallies.keys() - {rollout.rollout_id for rollout in rollouts}:
                del self._tallies[gone]
        failed: list[Exception] = []
        for rollout in rollouts:
            try:
                self._judge(rollout)
            except Exception as error:
                error.add_note(f"rollout {rollout.rollout_id}")
                failed.append(error)
        if failed:
            raise ExceptionGroup("rollouts could not be judged", failed)

    def _judge(self, rollout: Rollout) -> None:
        policy = rollout.policy
        case = self._case(rollout, policy)
        found = Judged(case, judge(policy, case))
        self._judged[rollout.rollout_id] = found
        if found.judgement.verdict is Verdict.HOLD:
            self._note(rollout, found)
            self._fill_slots(rollout, policy)
        else:
            self._act(rollout, found)

    def _act(self, rollout: Rollout, found: Judged) -> None:
        with self._store.unit(ACTOR) as unit:
            now = find_rollout(unit.connection, rollout.rollout_id)
            if (now.phase, now.step, now.outcome, now.paused_ns) != (
                rollout.phase,
                rollout.step,
                rollout.outcome,
                rollout.paused_ns,
            ):
                return  # somebody moved it while it was judged
            sentence = found.judgement.sentence
            if found.judgement.verdict is Verdict.ADVANCE:
                moved = conduct.move_forward(unit, self._frozen(unit, now), {**_facts(found), "sentence": sentence})
            else:
                moved = conduct.move_back(unit, now, Outcome.ROLLED_BACK, sentence, _facts(found))
        self.publish()
        log(
            logging.WARNING if moved.outcome is Outcome.ROLLED_BACK else logging.INFO,
            "rollout_moved",
            rollout_id=moved.rollout_id,
            version=moved.subject,
            phase=moved.phase,
            weight_bps=moved.weight_bps,
            outcome=moved.outcome,
            sentence=sentence,
        )

    def _frozen(self, unit: Unit, rollout: Rollout) -> Rollout:
        """A rollout on its way out of the shadow, with the control's score deciles as mirrors saw them by now."""
        if rollout.phase is not Phase.SHADOW:
            return rollout
        reports = [json.loads(head.shadow_json) for head in heads(unit.connection, rollout.rollout_id).values()]
        edges: list[float] = max((report.get("score_edges", []) for report in reports), key=len, default=[])
        return rollout._replace(score_edges_json=json.dumps(edges))

    def _case(self, rollout: Rollout, policy: Policy) -> Case:
        now_ns = time.time_ns()
        with self._counting, self._store.read() as connection:
            seen = heads(connection, rollout.rollout_id)
            challenger = find_version(connection, rollout.model, rollout.challenger)
            approved = bool(approvers(connection, challenger))
            tally = self._tallies.get(rollout.rollout_id)
            if tally is None:
                tally = self._tallies[rollout.rollout_id] = Tally(policy)
                tally.add(all_units(connection, rollout.rollout_id))
            step = step_number(rollout)
            summed = mirrored(seen.values())
            evidence = tally.evidence(step, bool(json.loads(rollout.score_edges_json)), summed)
        until_ns = rollout.paused_ns or now_ns
        return Case(
            phase=rollout.phase,
            step=rollout.step,
            elapsed_ns=max(0, until_ns - rollout.phase_since_ns),
            step_elapsed_ns=max(0, until_ns - rollout.step_since_ns),
            approved=approved,
            evidence=self._labels.added(rollout, evidence),
            shadow=shadow_report(summed),
            flags=Flags(
                paused=bool(rollout.paused_ns),
                lost_rows=sum(head.rows_lost - head.rows_lost_before for head in seen.values() if head.step == step),
                unwatched=tuple(self._unwatched(rollout, seen, now_ns)),
                without_evidence=rollout.without_evidence,
            ),
        )

    def _unwatched(self, rollout: Rollout, seen: Mapping[str, Head], now_ns: int) -> list[str]:
        """Gateways that follow the rollout and that nothing was heard of lately."""
        if rollout.phase is Phase.SHADOW or now_ns < rollout.step_since_ns + GRACE_NS:
            return []
        connected = [one.gateway_id for one in self._hub.gateways() if one.report.revision >= rollout.rollout_id]
        heard = {name for name, head in seen.items() if head.received_ns > now_ns - SILENT_NS}
        return [name for name in connected if name not in heard]

    def _note(self, rollout: Rollout, found: Judged) -> None:
        """Records a HOLD whose cause is new, or that raises an alert, with all that it rests on."""
        judgement = found.judgement
        what = (judgement.cause, *(alert.split(":")[0] for alert in judgement.alerts))
        if self._noted.get(rollout.rollout_id) == what:
            return
        self._noted[rollout.rollout_id] = what
        with self._store.unit(ACTOR) as unit:
            unit.record("rollout.hold", rollout.subject, {"rollout_id": rollout.rollout_id, **_facts(found)})

    def _fill_slots(self, rollout: Rollout, policy: Policy) -> None:
        """Gives free slots to gateways that came later."""
        judges = json.loads(rollout.judges_json)
        fresh = [one.gateway_id for one in self._hub.gateways() if one.gateway_id not in judges]
        for gateway_id in fresh[: policy.gateway_slots - len(judges)]:
            with self._store.unit(ACTOR) as unit:
                rollout = conduct.give_slot(unit, find_rollout(unit.connection, rollout.rollout_id), gateway_id)
            self.publish()


def _facts(found: Judged) -> dict[str, Any]:
    return {"case": found.case.model_dump(mode="json"), "judgement": found.judgement.model_dump(mode="json")}
