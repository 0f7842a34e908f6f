"""The newest route table for every gateway, and each gateway's last report. In memory: a restart derives it anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from control.rollout.alarms import Failing
from control.rollout.forecast import Traffic, summed
from control.rollout.routes import RouteTable
from control.rollout.stepback import Recorded, Withdrawal


class Report(NamedTuple):
    """What a gateway says of itself."""

    revision: int
    feature_sequence: int
    problems: tuple[str, ...]
    traffic: tuple[tuple[str, Traffic], ...] = ()
    """By model: what its requests were like lately."""
    failing: tuple[tuple[str, Failing], ...] = ()
    """By model: how many of them failed."""
    withdrawals: tuple[Withdrawal, ...] = ()
    """The versions that it stepped back from and that do not answer there."""


class Offer(NamedTuple):
    """What goes down to a gateway."""

    table: RouteTable
    recorded: tuple[Recorded, ...]
    """Which of the withdrawals that it reported are in the audit trail."""


class Gateway(NamedTuple):
    """A connected gateway and its last report."""

    gateway_id: str
    report: Report
    age_ms: int


class Confirmation(NamedTuple):
    """Which connected gateways have a revision in force, and which do not yet."""

    confirmed: tuple[str, ...]
    pending: tuple[str, ...]


class Session:
    """One connection of one gateway."""

    def __init__(self, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self.report = Report(0, 0, ())
        self.recorded: tuple[Recorded, ...] = ()
        self.reported_s = time.monotonic()
        self.ended = False


class Hub:
    """Hands tables down and reports up; every wait has an end."""

    def __init__(self, table: RouteTable) -> None:
        self._changed = threading.Condition()
        self._table = table
        self._sessions: dict[str, Session] = {}
        self._closed = False

    def publish(self, table: RouteTable) -> None:
        """Makes a table the newest one; one that is older than the newest is left aside."""
        with self._changed:
            if table.revision > self._table.revision:
                self._table = table
                self._changed.notify_all()

    @contextmanager
    def session(self, gateway_id: str) -> Iterator[Session]:
        """Keeps a gateway connected for the length of the block. Its newest connection replaces the one before."""
        session = Session(gateway_id)
        with self._changed:
            former = self._sessions.get(gateway_id)
            if former is not None:
                former.ended = True
            self._sessions[gateway_id] = session
            self._changed.notify_all()
        try:
            yield session
        finally:
            self.end(session)

    def end(self, session: Session) -> None:
        """Ends a session: its gateway is gone, unless it has a newer one."""
        with self._changed:
            session.ended = True
            if self._sessions.get(session.gateway_id) is session:
                del self._sessions[session.gateway_id]
            self._changed.notify_all()

    def take(self, session: Session, report: Report) -> None:
        """Keeps a gateway's report."""
        with self._changed:
            session.report = report
            session.reported_s = time.monotonic()
            self._changed.notify_all()

    def acknowledge(self, session: Session, recorded: tuple[Recorded, ...]) -> None:
        """Has a gateway told which of its withdrawals are recorded."""
        with self._changed:
            session.recorded = recorded
            self._changed.notify_all()

    def offers(self, session: Session) -> Iterator[Offer]:
        """The newest table now and after every change, until the session ends; tables in between are skipped."""
        sent: Offer | None = None
        while (offer := self._after(sent, session)) is not None:
            yield offer
            sent = offer

    def gateways(self) -> list[Gateway]:
        """The connected gateways, by id."""
        with self._changed:
            now_s = time.monotonic()
            return [
                Gateway(name, session.report, round((now_s - session.reported_s) * 1000))
                for name, session in sorted(self._sessions.items())
            ]

    def traffic(self, model: str) -> Traffic | None:
        """What a model's requests were like lately, over all connected gateways; None where nobody saw any."""
        seen = [lately for one in self.gateways() for name, lately in one.report.traffic if name == model]
        return summed(seen) if seen else None

    def wait_confirmed(self, revision: int, timeout_s: float, wanted: Callable[[], bool]) -> Confirmation:
        """Waits until every connected gateway has the revision in force, or the time is up, or nobody wants to know."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while (
                (found := self._confirmation(revision)).pending
                and not self._closed
                and wanted()
                and (left_s := deadline_s - time.monotonic()) > 0
            ):
                self._changed.wait(min(left_s, 1.0))
            return found

    @property
    def revision(self) -> int:
        """Of the newest table."""
        return self._table.revision

    @property
    def closed(self) -> bool:
        """Whether the control plane is stopping."""
        return self._closed

    def close(self) -> None:
        """Ends every session and every wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _after(self, sent: Offer | None, session: Session) -> Offer | None:
        with self._changed:
            self._changed.wait_for(lambda: session.ended or self._closed or self._is_news(sent, session))
            if self._closed or (session.ended and sent is not None):
                return None
            return Offer(self._table, session.recorded)  # the first one in any case: who asks and leaves gets an answer

    def _is_news(self, sent: Offer | None, session: Session) -> bool:
        return sent is None or self._table is not sent.table or session.recorded != sent.recorded

    def _confirmation(self, revision: int) -> Confirmation:
        sessions = sorted(self._sessions.items())
        return Confirmation(
            tuple(name for name, session in sessions if session.report.revision >= revision),
            tuple(name for name, session in sessions if session.report.revision < revision),
        )
