"""What a gateway's reports lead to: what they say of now is kept in memory, what must last in the store."""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from control.rollout.alarms import Failing
from control.rollout.forecast import Traffic
from control.rollout.gateway_records import note_gateway, note_pins
from control.rollout.hub import Hub, Report, Session
from control.rollout.policy import Metric
from control.rollout.stepback import Withdrawal, record_step_backs
from control.rollout.tables import current_table
from control.store.store import Store
from control.telemetry import log
from control.v1 import data_plane_pb2 as pb
from gateway.contract.errors import Fault

MOST_PROBLEMS: Final = 100
LONGEST_PROBLEM: Final = 1000
MOST_WITHDRAWALS: Final = 256
MOST_PINS: Final = 1024
MOST_MODELS: Final = 1024
METRICS: Final = frozenset(Metric)
LONGEST_NAME: Final = 128
LONGEST_REASON: Final = 2000


class Listener:
    """Takes the reports of one connection. A store that cannot be written now is tried again with the next report."""

    def __init__(self, store: Store, hub: Hub, session: Session, actor: str) -> None:
        self._store = store
        self._hub = hub
        self._session = session
        self._actor = actor
        self._pinned: dict[tuple[str, int], int] = {}
        self.note_gateway()

    def take(self, request: pb.WatchRoutesRequest) -> None:
        """Takes one report."""
        report = _report(request)
        if request.history_id not in ("", self._store.history_id):
            report = report._replace(revision=0, feature_sequence=0)
        self._hub.take(self._session, report)
        try:
            self._record(report.withdrawals)
            self._keep_pins(request)
        except Fault as fault:
            gateway_id = self._session.gateway_id
            log(logging.WARNING, "report_not_kept", gateway_id=gateway_id, reason=fault.reason, message=fault.message)

    def note_gateway(self) -> None:
        """Notes that the gateway is, or was, there; what the disk refuses is not worth a connection."""
        with contextlib.suppress(Fault):
            note_gateway(self._store, self._actor, self._session.gateway_id, self._session.report.revision)

    def _record(self, withdrawals: tuple[Withdrawal, ...]) -> None:
        told = {one.number for one in self._session.recorded}
        if all(one.number in told for one in withdrawals):
            return
        gateway_id, revision = self._session.gateway_id, current_table(self._store).revision
        recorded = record_step_backs(self._store, self._actor, gateway_id, withdrawals, revision)
        self._hub.publish(current_table(self._store))
        self._hub.acknowledge(self._session, recorded)

    def _keep_pins(self, request: pb.WatchRoutesRequest) -> None:
        told = {(one.model, one.version): one.last_ns for one in request.pinned[:MOST_PINS]}
        fresh = {key: last_ns for key, last_ns in told.items() if self._pinned.get(key, 0) < last_ns}
        if fresh:
            pinned = tuple((*key, last_ns) for key, last_ns in fresh.items())
            note_pins(self._store, self._actor, self._session.gateway_id, pinned)
            self._pinned |= fresh


def _report(request: pb.WatchRoutesRequest) -> Report:
    problems = tuple(problem[:LONGEST_PROBLEM] for problem in request.problems[:MOST_PROBLEMS])
    withdrawals = tuple(_withdrawal(one) for one in request.withdrawals[:MOST_WITHDRAWALS])
    lately = request.traffic[:MOST_MODELS]
    return Report(
        request.revision,
        request.feature_sequence,
        problems,
        traffic=tuple((one.model, _traffic(one)) for one in lately),
        failing=tuple(
            (one.model, Failing(one.recent_rows, one.recent_failed, one.earlier_rows, one.earlier_failed))
            for one in lately
        ),
        withdrawals=withdrawals,
    )


def _traffic(said: pb.ModelTraffic) -> Traffic:
    """What is said of metrics that this release does not know is left out."""
    rates = {Metric(name): rate for name, rate in said.bad_rates.items() if name in METRICS}
    return Traffic(said.rows_per_s, said.entities_per_hour, rates)


def _withdrawal(said: pb.Withdrawal) -> Withdrawal:
    return Withdrawal(
        number=said.number,
        model=said.model[:LONGEST_NAME],
        version=said.version,
        digest=said.digest[:LONGEST_NAME],
        kind=said.kind[:LONGEST_NAME],
        actor=said.actor[:LONGEST_NAME],
        reason=said.reason[:LONGEST_REASON],
        time_ns=said.time_ns,
        history_id=said.history_id[:LONGEST_NAME],
        revision=said.revision,
    )
