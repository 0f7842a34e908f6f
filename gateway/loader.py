"""The loader: follows the route table on disk, loads what it names, and swaps the pipeline's snapshot.

A model's new version is loaded, checked and warmed before the old one leaves, and becomes routable by itself: a slow
or broken one keeps no other model from its new version.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from gateway.contract.alerts import Alert, AlertText, alert
from gateway.contract.errors import Fault, Reason
from gateway.derivation import Trying, derive_snapshot, follows_withdrawals, to_load
from gateway.features.store import OnlineStore
from gateway.pipeline import Pipeline
from gateway.run import Attempts
from gateway.servable import Servable, StoredView, load, stored_views
from gateway.stepback import Withdrawal, effective
from gateway.telemetry import log
from gateway.trying import UNMARKED, TryMark
from gateway.wire.routes import RouteTable, ServedVersion, parse_routes
from gateway.withdrawals import Withdrawals

T = TypeVar("T")

POLL_S: Final = 0.02
"""How soon a new route table is seen; a look at the file costs 2 µs."""
NICENESS: Final = 10
RETRY_NS: Final = 10_000_000_000
"""How long a version that failed to load is left alone, doubled at each failure."""
MAX_RETRY_NS: Final = 320_000_000_000


class Failure(NamedTuple):
    """A version that could not be loaded."""

    problem: str
    times: int
    retry_ns: int
    """When to try again, on the monotonic clock."""
    hosts: bool
    """Whether this host is to blame: what lies on its disk is not what the table names."""


class Loader:
    """Keeps one pipeline's snapshot in step with the route table. Runs on the pipeline's event loop."""

    def __init__(
        self,
        routes_path: Path,
        artifacts: Path,
        pipeline: Pipeline,
        turn: Path,
        watched: Callable[[], bool],
        loading: TryMark = UNMARKED,
    ) -> None:
        self.routes_path = routes_path
        self.withdrawals = Withdrawals(routes_path.parent)
        self.watched = watched
        """Whether the observer is at work."""
        self.loading = loading
        """Where it is marked that a challenger is being loaded."""
        self.turn = turn
        """A file that the workers which must not load at the same time have in common."""
        self.artifacts = artifacts
        self.pipeline = pipeline
        self.table: RouteTable | None = None
        """The one that is followed: the control plane's without what is withdrawn here."""
        self.withdrawal = 0
        """The newest withdrawal that is in force; only ever grows."""
        self.ready = False
        """Whether every model of the first table is routable, or cannot be loaded."""
        self._executor = ThreadPoolExecutor(1, "loading", _yield_to_others)
        self._seen: dict[Path, tuple[int, int]] = {}
        self._sent: RouteTable | None = None
        self._withdrawn: tuple[Withdrawal, ...] = ()
        self._file_problems: dict[Path, str] = {}
        self._loaded: dict[str, Servable] = {}
        self._failures: dict[str, Failure] = {}
        self._attempts: dict[int, Attempts] = {}
        self._mirrored: dict[str, tuple[StoredView, ...]] = {}

    async def follow(self) -> None:
        """Works until it is cancelled."""
        while True:
            self.read_table()
            if self.table is not None and (served := self._next_to_load(self.table)) is not None:
                await self._load(served)
            self.publish()
            await asyncio.sleep(POLL_S)

    def problems(self) -> list[AlertText]:
        """What keeps this worker from the newest table, in words."""
        # The board's thread asks, while the loop may be changing these: the copies are made in one go.
        found = [alert(Alert.FILE_UNREADABLE, problem) for problem in tuple(self._file_problems.values())]
        found += [alert(Alert.VERSION_NOT_LOADED, failure.problem) for failure in tuple(self._failures.values())]
        table, routes = self.table, self.pipeline.snapshot.routes
        for served in table.champions.values() if table else ():
            name = f"{served.model}/{served.version}"
            if served.digest in self._loaded and (
                served.model not in routes or routes[served.model].servable.served.digest != served.digest
            ):
                words = f"{name} waits until feature batch {served.feature_sequence} is applied"
                found.append(alert(Alert.FEATURES_AWAITED, words))
        return found

    def problem(self, model: str) -> str:
        """What keeps the model's version from being loaded; empty where nothing does."""
        served = self.table.champions.get(model) if self.table else None
        failure = self._failures.get(served.digest) if served else None
        return failure.problem if failure else ""

    def given_up(self) -> list[dict[str, Any]]:
        """Challengers that this worker tries no more, or cannot load, and why: to be withdrawn from the gateway."""
        found = []
        for canary in self.table.canaries.values() if self.table else ():
            failure, attempts = self._failures.get(canary.challenger.digest), self._attempts.get(canary.rollout_id)
            # The board's thread may ask while the loop is between two tables, when a rollout has no attempts.
            reason = attempts.give_up if attempts else ""
            if failure is not None and not failure.hosts:  # a damaged disk is no reason to quarantine it everywhere
                reason = reason or failure.problem
            if reason:
                challenger = canary.challenger
                facts = {"model": challenger.model, "version": challenger.version, "digest": challenger.digest}
                found.append({**facts, "rollout_id": canary.rollout_id, "reason": reason})
        return found

    def read_table(self) -> None:
        """Reads the route table and what is withdrawn, where they were replaced.

        One that cannot be read leaves the former in force.
        """
        # In this order: a withdrawal ends by a table that was put there before, and must not be seen to end without it.
        withdrawn = self._replaced(self.withdrawals.path)
        if withdrawn:
            self._withdrawn = self._read(self.withdrawals.path, self.withdrawals.read, self._withdrawn)
        if self._replaced(self.routes_path):
            self._sent = self._read(self.routes_path, lambda: parse_routes(self.routes_path.read_bytes()), self._sent)
        elif not withdrawn:
            return
        if self._sent is None:
            return
        self.table = table = effective(self._sent, self._withdrawn)
        wanted = {served.digest for served in to_load(table)}
        canaries = table.canaries.values()
        # A new rollout has its own chance, whatever became of an earlier one of the same bytes.
        wanted -= {canary.challenger.digest for canary in canaries if canary.rollout_id not in self._attempts}
        self._failures = {digest: failure for digest, failure in self._failures.items() if digest in wanted}
        self._attempts = {canary.rollout_id: self._attempts.get(canary.rollout_id) or Attempts() for canary in canaries}
        self._mirrored = {model: _compared_views(table, model) for model in table.shadows}
        stepped_back = sorted(table.stepped_back)
        log(logging.INFO, "route_table", revision=table.revision, models=len(to_load(table)), stepped_back=stepped_back)

    def _replaced(self, path: Path) -> bool:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        seen, self._seen[path] = self._seen.get(path), (stat.st_ino, stat.st_mtime_ns)
        return seen != self._seen[path]

    def _read(self, path: Path, read: Callable[[], T], former: T) -> T:
        try:
            found = read()
        except (OSError, ValueError) as error:
            problem = str(error) if isinstance(error, ValueError) else f"{path.name} cannot be read"
            self._file_problems[path] = problem
            log(logging.ERROR, "file_unreadable", file=path.name, problem=problem)
            return former
        self._file_problems.pop(path, None)
        return found

    def publish(self) -> None:
        """Stores a new snapshot where the table, what is loaded or what is materialized calls for one."""
        if self.table is None:
            return
        applied = self._applied(self.pipeline.store)
        trying = Trying(self._attempts, frozenset(self._failures), self._mirrored, self.watched())
        snapshot = derive_snapshot(self.table, self._loaded, self.pipeline.snapshot, applied, trying)
        if snapshot != self.pipeline.snapshot:
            self.pipeline.snapshot = snapshot
            wanted = {served.digest for served in to_load(self.table)}
            wanted |= {route.servable.served.digest for route in snapshot.routes.values()}
            self._loaded = {digest: servable for digest, servable in self._loaded.items() if digest in wanted}
        if follows_withdrawals(snapshot, self.table):
            self.withdrawal = max([self.withdrawal, *(one.number for one in self._withdrawn)])
        failed = {served.model for served in self.table.champions.values() if served.digest in self._failures}
        self.ready = self.ready or snapshot.loading <= failed

    def _applied(self, store: OnlineStore) -> int:
        with store as snapshot:
            return snapshot.sequence()

    def _next_to_load(self, table: RouteTable) -> ServedVersion | None:
        now_ns = time.monotonic_ns()
        for served in to_load(table):
            failure = self._failures.get(served.digest)
            if served.digest not in self._loaded and (failure is None or failure.retry_ns <= now_ns):
                return served
        return None

    async def _load(self, served: ServedVersion) -> None:
        name = f"{served.model}/{served.version}"
        started_ns = time.monotonic_ns()
        self.loading.begin(self._rollout_of(served))
        try:
            # Before a worker serves, nobody waits for its core.
            work = partial(load_in_turn, self.turn) if self.ready else load
            loop = asyncio.get_running_loop()
            servable = await loop.run_in_executor(self._executor, work, served, self.artifacts)
        except Fault as fault:
            times = self._failures[served.digest].times + 1 if served.digest in self._failures else 1
            pause_ns = min(RETRY_NS << (times - 1), MAX_RETRY_NS)
            hosts = fault.reason in (Reason.ARTIFACT_UNKNOWN, Reason.DIGEST_MISMATCH)
            self._failures[served.digest] = Failure(fault.message, times, time.monotonic_ns() + pause_ns, hosts)
            log(logging.ERROR, "load_failed", version=name, problem=fault.message, cause=repr(fault.__cause__))
            return
        finally:
            self.loading.end()
        self._failures.pop(served.digest, None)
        self._loaded[served.digest] = servable
        log(logging.INFO, "loaded", version=name, milliseconds=(time.monotonic_ns() - started_ns) // 1_000_000)

    def _rollout_of(self, served: ServedVersion) -> int:
        """The rollout that tries a version; 0 for none."""
        canaries = self.table.canaries.values() if self.table else ()
        return next((one.rollout_id for one in canaries if one.challenger.digest == served.digest), 0)


def _compared_views(table: RouteTable, model: str) -> tuple[StoredView, ...]:
    """The views of every version that the mirror runs for a model: all of them on each row, whoever answered it."""
    versions = [shadow.version for shadow in table.shadows[model]]
    versions += [table.canaries[model].control] if model in table.canaries else []
    return tuple({view.key: view for version in versions for view in stored_views(version)}.values())


def _yield_to_others() -> None:
    """Has this thread run when nobody else wants the core: on Linux a thread has a niceness of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def load_in_turn(turn: Path, served: ServedVersion, artifacts: Path) -> Servable:
    """Loads a version while no other worker of the same turn does, so that some cores go on serving."""
    with turn.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return load(served, artifacts)
