"""The supervisor: it starts the other processes, watches them and ends them in order, and has no part in their work."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import select
import signal
import socket
import time
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Final

from gateway.admin import AdminServer
from gateway.blame import hangs, withdraw_tried
from gateway.board import Board, BoardReader, Boards
from gateway.by_hand import forget_history
from gateway.children import Child
from gateway.config import Config
from gateway.leftovers import remove_leftovers
from gateway.metrics import MetricsServer
from gateway.ports import reserve
from gateway.security import own_token, require_loopback
from gateway.telemetry import log, start_logging

TICK_S: Final = 0.1
MARGIN_S: Final = 3.0
"""How much longer than it should take a process may take to end before it is killed."""
BOARD_NS: Final = 500_000_000
"""How often the board is written when nothing has changed."""


def prepare(config: Config) -> Supervisor:
    """Takes the data directory and the ports, and opens the admin and metrics ports; raises ValueError if it cannot."""
    for key in ("address", "admin_address", "metrics_address"):
        require_loopback(key, getattr(config, key))
    if config.control:
        require_loopback("control", config.control)
    if config.otlp_endpoint:
        require_otel()
    start_logging("supervisor", config.log_level)
    config = config.model_copy(update={"data": config.data.absolute(), "workers": config.worker_count})
    for path in (config.data, config.artifacts_path, config.features_path, config.journal_path, config.run_path):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    locks = lock(config)
    remove_leftovers(config)
    if config.token_file is None:
        own_token(None, config.data)  # made here, for operators to find
    address, holder = reserve("address", config.address)
    config = config.model_copy(update={"address": address})
    metrics = MetricsServer(config)
    config = config.model_copy(update={"metrics_address": metrics.address})
    admin = AdminServer(config)
    config = config.model_copy(update={"admin_address": admin.address})
    return Supervisor(config, (holder, *locks), admin, metrics)


def lock(config: Config) -> tuple[int, int]:
    """Takes the data directory for one gateway: first from other supervisors, then from processes that one left behind.

    Every process of a gateway holds the second lock, and a killed supervisor's processes go on for as long as their
    drain takes: two workers must never write one journal.
    """
    own = os.open(config.data / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(own, 20, 0).decode().strip() or "unknown"
        raise ValueError(f"data = {config.data}: the gateway with process id {pid} uses this directory") from error
    os.truncate(own, 0)
    os.pwrite(own, f"{os.getpid()}\n".encode(), 0)
    shared = os.open(config.data / "processes.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + config.drain_ms / 1000 + 2 * MARGIN_S
    while True:
        try:
            fcntl.flock(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ValueError(f"data = {config.data}: processes of an earlier gateway do not end") from error
            time.sleep(0.05)
        else:
            return own, shared


def gateway_id(path: Path) -> str:
    """The gateway's id, made on its first start."""
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.write_text(secrets.token_hex(8))
        fresh.rename(path)
    return path.read_text().strip()


def require_otel() -> None:
    """Raises ValueError where the exporter could not work."""
    try:
        import_module("gateway.contract.otlp")
    except ModuleNotFoundError as error:
        raise ValueError("otlp_endpoint is set, and needs the extra `otel`: pip install 'interlock[otel]'") from error


def why_no_lake(config: Config) -> str:
    """Why there is no recorder; empty where there is one."""
    if not config.recorder:
        return "off (gateway.recorder)"
    return "" if find_spec("pyarrow") else "off: it needs the extra `lake` (pip install 'interlock[lake]')"


class Supervisor:
    """A gateway that has its directory and ports, and whose processes `run` starts."""

    def __init__(
        self, config: Config, holders: tuple[socket.socket, int, int], admin: AdminServer, metrics: MetricsServer
    ) -> None:
        self.config = config
        self._holders = holders
        self._admin, self._metrics = admin, metrics
        self._id = gateway_id(config.data / "gateway.id")
        self._boards = Boards(config.run_path, config.worker_count)
        self._board = Board(config.run_path / "supervisor.board")
        self._written: tuple[int, dict[str, Any]] = (0, {})
        self._draining = False
        self._signals = 0
        settings = config.model_dump_json()
        self._workers = [
            Child(
                ("worker", str(index)),
                settings,
                config.run_path,
                holders[-1],
                partial(self._blame, index),
            )
            for index in range(config.worker_count)
        ]
        self._said = [BoardReader(config.run_path / f"worker-{index}.board") for index in range(config.worker_count)]
        self._others = [self._child(settings, "observer"), self._child(settings, "mirror")]
        if config.control:
            self._others.append(self._child(settings, "materializer"))
        self._no_lake = why_no_lake(config)
        if not self._no_lake:
            self._others.append(self._child(settings, "recorder"))
        if config.otlp_endpoint:
            self._others.append(self._child(settings, "exporter"))
        self._report()

    def run(self) -> int:
        """Runs the gateway until a signal ends it; returns the exit code."""
        self._wake, ringing = socket.socketpair()
        for end in (self._wake, ringing):
            end.setblocking(False)
        signal.set_wakeup_fd(ringing.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake us
        log(logging.INFO, "started", address=self.config.address, workers=len(self._workers), gateway_id=self._id)
        while not self._signals:
            if self._admin.begin_anew.is_set():
                self._begin_anew()
            for child in (*self._others, *self._workers):
                child.tend()
            self._end_hung()
            self._report()
            self._sleep()
        self._drain()
        return 0

    def _begin_anew(self) -> None:
        """Ends the other processes, forgets routes and features, and lets the processes be started again."""
        log(logging.WARNING, "history_accepted")
        self._end(self._workers, self.config.drain_ms / 1000 + MARGIN_S)
        self._end(self._others, MARGIN_S)
        forget_history(self.config)
        self._admin.begin_anew.clear()

    def _end_hung(self) -> None:
        """Kills workers whose loop stands still: nothing else would ever take their share of the connections."""
        for index, child in enumerate(self._workers):
            if child.pid and hangs(self.config, index, self._said[index].read(), child.pid):
                log(logging.ERROR, "worker_hung", role=child.name, pid=child.pid)
                child.signal(signal.SIGKILL)

    def _blame(self, index: int, how: str) -> None:
        """Blames what a worker was trying for its end, unless a second signal has all be killed at once."""
        if self._signals < 2:
            withdraw_tried(self.config, index, how)

    def _drain(self) -> None:
        log(logging.INFO, "draining", drain_ms=self.config.drain_ms)
        self._draining = True
        self._admin.drain()
        self._report()
        self._end(self._workers, self.config.drain_ms / 1000 + MARGIN_S)
        self._end(self._others, MARGIN_S)
        self._admin.stop()
        self._metrics.stop()
        (self.config.run_path / "supervisor.board").unlink(missing_ok=True)
        log(logging.INFO, "ended")

    def _end(self, children: list[Child], patience_s: float) -> None:
        """Asks the processes to end, and kills those that do not, or all at once on a second signal."""
        deadline = time.monotonic() + patience_s
        for child in children:
            child.signal(signal.SIGTERM)
        while any(child.pid for child in children):
            if self._signals > 1 or time.monotonic() > deadline:
                for child in children:
                    child.signal(signal.SIGKILL)
            for child in children:
                child.reap()
            self._report()
            self._sleep()

    def _report(self) -> None:
        """Writes the board, and tells the health service."""
        ready = any(said["ready"] for said in self._boards.workers().values())
        self._admin.report(serving=ready and not self._draining)
        now_ns = time.monotonic_ns()
        facts = {
            "pid": os.getpid(),
            "gateway_id": self._id,
            "address": self.config.address,
            "admin_address": self.config.admin_address,
            "metrics_address": self.config.metrics_address,
            "draining": self._draining,
            "no_lake": self._no_lake,
            "children": [
                {"role": child.name, "pid": child.pid, "restarts": child.restarts, "problem": child.problem}
                for child in (*self._workers, *self._others)
            ],
        }
        if facts != self._written[1] or now_ns > self._written[0] + BOARD_NS:
            self._board.write(facts | {"heartbeat_ns": now_ns})
            self._written = now_ns, facts

    def _sleep(self) -> None:
        """Until a signal comes, at most a tick."""
        select.select([self._wake], [], [], TICK_S)
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what a handler takes
        self._signals += 1

    def _child(self, settings: str, *role: str) -> Child:
        return Child(role, settings, self.config.run_path, self._holders[-1])
