"""Rollouts as a state machine: people, evidence, gateways and restarts in any order, and what must hold throughout."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import select

from control.governance.records import add_decision
from control.rollout import conduct
from control.rollout.case import Phase
from control.rollout.controller import Controller
from control.rollout.hub import Hub
from control.rollout.lifecycle import Event, Stage, advance
from control.rollout.moves import promote, roll_back
from control.rollout.records import approvers, find_version, save, versions_in
from control.rollout.rollout_records import EvidenceRow, Head, listed, running
from control.rollout.rollouts import Kind, Outcome, Rollout
from control.rollout.routes import RouteTable
from control.rollout.stepback import Withdrawal, record_step_backs
from control.rollout.tables import current_table
from control.rollout.tally import FIRST_BAD, FIRST_ROW
from control.store.store import Store
from control.store.tables import audit
from gateway.contract.errors import Fault
from tests.control.planes import add_version
from tests.support import STRESS

MODEL = "churn"
POLICY = """
steps: [{weight_bps: 500, minimum_s: 0}, {weight_bps: 2000, minimum_s: 0}, {weight_bps: 5000, minimum_s: 0}]
metrics:
  errors: {advance: {ceiling: {max_bad_rate: 0.3}}}
  non_finite: {advance: {ceiling: {max_bad_rate: 0.3}}}
  latency: null
"""
STANDING = frozenset({Stage.SHADOW, Stage.CANARY, Stage.CHAMPION})
REASON = "a test"


class Rollouts(RuleBasedStateMachine):
    """One model, its versions and their rollouts, over a real store that is reopened between steps."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "store.sqlite"
        self.revision = 0
        self.weights: dict[int, int] = {}
        self.entity = 0
        self.numbers: dict[str, int] = {"g1": 0, "g2": 0}
        self.withdrawal = 0
        self.open()
        self.first()

    def open(self) -> None:
        """Opens the store, with a controller that nothing remembers of the one before."""
        self.store = Store(self.path)
        self.hub = Hub(current_table(self.store))
        self.controller = Controller(self.store, self.hub, self.publish, Path(self.directory.name))

    def publish(self) -> None:
        """Hands out the newest table."""
        self.hub.publish(current_table(self.store))

    def first(self) -> None:
        """A champion to begin with."""
        version = self.approved()
        with self.store.unit("mia") as unit:
            promote(unit, MODEL, version)

    def approved(self) -> int:
        """A version that was approved."""
        version = add_version(self.store, MODEL)
        self.approve(version)
        return version

    def approve(self, version: int) -> None:
        """Approves a version, whether it waits or was rolled back."""
        with self.store.unit("ben") as unit:
            record = find_version(unit.connection, MODEL, version)
            stage = advance(record.stage, Event.APPROVE, record.subject)
            sequence = unit.record("version.approve", record.subject, {"digest": record.digest})
            add_decision(unit, record, "approved", "", sequence)
            save(unit.connection, record._replace(stage=stage, stage_sequence=sequence))

    def running(self) -> list[Rollout]:
        """The rollouts that run."""
        with self.store.read() as connection:
            return running(connection)

    @rule(shadow_first=st.booleans(), hold=st.booleans())
    def starts(self, shadow_first: bool, hold: bool) -> None:
        """A fresh version is tried; refused while another one runs."""
        version = self.approved()
        policy = POLICY + ("" if shadow_first else "shadow: null\n") + ("" if hold else "holdback: null\n")
        busy = any(one.kind is Kind.ROLLOUT and one.phase is not Phase.HOLDBACK for one in self.running())
        try:
            with self.store.unit("mia") as unit:
                conduct.start(unit, MODEL, version, policy, Kind.ROLLOUT, ["g1"])
        except Fault:
            assert busy
        else:
            assert not busy

    @rule()
    def shadows(self) -> None:
        """A version is only looked at, beside whatever runs."""
        version = self.approved()
        with self.store.unit("mia") as unit:
            conduct.start(unit, MODEL, version, POLICY, Kind.SHADOW, [])

    @rule(gateway=st.sampled_from(["g1", "g2"]), n=st.integers(1, 40), bad=st.booleans(), again=st.booleans())
    def evidence_comes(self, gateway: str, n: int, bad: bool, again: bool) -> None:
        """Clean first rows in both arms, or first bad events of the challenger; perhaps told again."""
        for rollout in self.running():
            if rollout.kind is Kind.ROLLOUT and rollout.phase is not Phase.SHADOW:
                step = rollout.step + 1 + (rollout.phase is Phase.HOLDBACK)
                rows = [self.unit(rollout, step, bad) for _ in range(n)]
                head = Head(gateway, step=step)
                name = f"{gateway}/{rollout.rollout_id}"
                number = self.numbers.get(name, 0)
                kept = self.controller.report(rollout.rollout_id, head, number + 1, rows)
                assert kept == number + n
                if again:
                    assert self.controller.report(rollout.rollout_id, head, number + 1, rows) == kept
                self.numbers[name] = kept

    def unit(self, rollout: Rollout, step: int, bad: bool) -> EvidenceRow:
        """One more entity's fact, drawn as the router draws: one in twenty and so on, evenly."""
        self.entity += 1
        challenger = bad or self.entity * 7919 % 10_000 < rollout.weight_bps
        kind = FIRST_BAD if bad else FIRST_ROW
        unit = f"{self.entity:016x}"
        return EvidenceRow(kind, int(bad), 0 if bad else step, unit, challenger, rollout.weight_bps, int(bad), 0)

    @rule()
    def mirrors_report(self) -> None:
        """Enough pairs for the shadow's exit rule."""
        shadow = (
            '{"pairs": 20000, "exceptions": 0, "non_finite": 0, "flips_up": 0, "flips_down": 0, "dropped": 0,'
            ' "slow_shadow": [], "slow_other": [], "shadow_p99_ns": 100, "other_p99_ns": 100, "score_edges": []}'
        )
        for rollout in self.running():
            if rollout.phase is Phase.SHADOW:
                name = f"g1/{rollout.rollout_id}"
                head = Head("g1", shadow_json=shadow)
                self.controller.report(rollout.rollout_id, head, self.numbers.get(name, 0) + 1, [])

    @rule()
    def the_controller_looks(self) -> None:
        """A paused rollout does not advance."""
        before = {one.rollout_id: one for one in self.running()}
        self.controller.look()
        with self.store.read() as connection:
            after = {one.rollout_id: one for one in listed(connection, MODEL, ended=True)}
        for rollout_id, rollout in before.items():
            now = after[rollout_id]
            moved = (now.phase, now.step) != (rollout.phase, rollout.step) or now.outcome is Outcome.PROMOTED
            assert not (rollout.paused_ns and moved)

    @rule()
    def restarts(self) -> None:
        """Nothing lives in memory only."""
        before = current_table(self.store)
        self.store.close()
        self.open()
        assert current_table(self.store) == before

    @rule(resume=st.booleans())
    def people_pause(self, resume: bool) -> None:
        """Or resume."""
        with suppress(Fault), self.store.unit("mia") as unit:
            (conduct.resume if resume else conduct.pause)(unit, MODEL, REASON)

    @rule()
    def people_promote(self) -> None:
        """Against the evidence."""
        with suppress(Fault), self.store.unit("ben") as unit:
            conduct.promote_without_evidence(unit, MODEL, REASON, {})

    @rule()
    def people_roll_back(self) -> None:
        """The model, whatever runs."""
        with suppress(Fault), self.store.unit("mia") as unit:
            roll_back(unit, MODEL, 0, REASON)

    @rule(kind=st.sampled_from(["guard", "evidence", "manual"]))
    def a_gateway_withdraws(self, kind: str) -> None:
        """The challenger of what runs; its rollout is over then, unless somebody promoted against the evidence."""
        rolling = [one for one in self.running() if one.kind is Kind.ROLLOUT and one.phase is not Phase.SHADOW]
        for rollout in rolling:
            self.withdrawal += 1
            withdrawal = Withdrawal(
                number=self.withdrawal,
                model=MODEL,
                version=rollout.challenger,
                digest=rollout.challenger_digest,
                kind=kind,
                actor="gateway",
                reason=REASON,
                time_ns=1,
                history_id=self.store.history_id,
                revision=current_table(self.store).revision,
            )
            record_step_backs(self.store, "g1", "g1", [withdrawal], current_table(self.store).revision)
            record_step_backs(self.store, "g1", "g1", [withdrawal], current_table(self.store).revision)
            overruled = kind == "evidence" and rollout.without_evidence
            assert (rollout.rollout_id in {one.rollout_id for one in self.running()}) == overruled

    @rule(kind=st.sampled_from(["guard", "evidence"]))
    def a_gateway_tells_late_of_an_earlier_trial(self, kind: str) -> None:
        """Of the bytes that are tried now: they were approved since, and the trial goes on."""
        before = self.running()
        for rollout in before:
            self.withdrawal += 1
            late = Withdrawal(
                number=self.withdrawal,
                model=MODEL,
                version=rollout.challenger,
                digest=rollout.challenger_digest,
                kind=kind,
                actor="gateway",
                reason=REASON,
                time_ns=1,
                history_id=self.store.history_id,
                revision=rollout.rollout_id - 1,
            )
            record_step_backs(self.store, "g2", "g2", [late], current_table(self.store).revision)
        assert self.running() == before

    @rule()
    def an_undone_version_is_approved_again(self) -> None:
        """Only then may it come back."""
        with self.store.read() as connection:
            undone = versions_in(connection, frozenset({Stage.ROLLED_BACK, Stage.QUARANTINED}), MODEL)
        if undone:
            self.approve(undone[0].version)

    @invariant()
    def whoever_answers_was_approved(self) -> None:
        """By somebody else, for its digest; and one version at most is the champion."""
        with self.store.read() as connection:
            answering = versions_in(connection, STANDING, MODEL)
            assert all(approvers(connection, record) for record in answering)
        assert sum(record.stage is Stage.CHAMPION for record in answering) == 1

    @invariant()
    def the_table_says_what_runs(self) -> None:
        """Its revision never goes back, it has a canary exactly where one runs, and weights only grow."""
        table: RouteTable = current_table(self.store)
        assert table.revision >= self.revision
        self.revision = table.revision
        route = table.models[0]
        rolling = self.running()
        answering = [one for one in rolling if one.kind is Kind.ROLLOUT and one.phase is not Phase.SHADOW]
        assert (route.canary is not None) == bool(answering)
        assert len(answering) <= 1
        for rollout in answering:
            canary = route.canary
            assert canary is not None
            assert canary.weight_bps >= self.weights.get(rollout.rollout_id, 0)
            self.weights[rollout.rollout_id] = canary.weight_bps
            champion = rollout.challenger if rollout.phase is Phase.HOLDBACK else rollout.control
            assert route.champion.version == champion
        assert {one.rollout_id for one in route.shadows} == {
            one.rollout_id for one in rolling if one.phase is not Phase.HOLDBACK
        }

    def teardown(self) -> None:
        """Every step is in the audit trail, unbroken."""
        with self.store.read() as connection:
            entries = connection.execute(select(audit).order_by(audit.c.sequence)).all()
        assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
        self.store.close()
        self.directory.cleanup()


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=100 if STRESS else 8, stateful_step_count=30, deadline=None)
