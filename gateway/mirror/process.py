"""The mirror's process. It may be slow, or end at any time: no caller notices, since it only reads what was journalled.

What a shadow does to it, the other shadows get over: a run that takes too long is ended, one that cannot be ended ends
the process, and the next one goes on after the row that did it.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from gateway.board import Board
from gateway.config import Config
from gateway.mirror.mark import Doing, Mark
from gateway.mirror.table import FollowedTable
from gateway.telemetry import log, settle

if TYPE_CHECKING:
    from gateway.mirror.work import Work

PAUSE_S: Final = 0.02
IDLE_S: Final = 0.2
"""How often it is looked for a shadow while there is none."""
BEAT_S: Final = 0.25
LEAVE_S: Final = 1.0
"""How long the work may take to end; then it ends with the figures that were saved last."""
BOARD_BYTES: Final = 4 << 20
LAST: Final = 19
"""The niceness of who comes last: it then runs only when nobody else wants a core at all."""
HUNG_NS: Final = 5_000_000_000
"""How much of the processor's time a run may take: it was to end long before."""
LOADING_NS: Final = 60_000_000_000
"""How much of it the loading of a version may take."""
STUCK_NS: Final = 300_000_000_000
"""How long at all: a machine without a free core for so long mirrors nothing anyhow."""


def run(config: Config) -> None:
    """Works until SIGTERM."""
    Mirror(config).work()


class Mirror:
    """Follows the route table, and works while it names a shadow."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._board = Board(config.run_path / "mirror.board", BOARD_BYTES)
        self._table = FollowedTable(config)
        self._mark = Mark(config.data / "mirror.mark")
        self._facts: dict[str, Any] = {"shadows": {}, "scored": [], "problems": []}
        self._work: Work | None = None
        self._stop = threading.Event()
        self._wake, self._ringing = socket.socketpair()
        self._ringing.setblocking(False)
        self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def work(self) -> None:
        """Does all of its work."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.set_wakeup_fd(self._ringing.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # a thread that has a core takes it
        give_way(self._config)  # the beat's thread is there already, and stays as it is
        while not self._stop.is_set():
            self._follow()
            work = self._work
            busy = work is not None and work.step()
            if work is not None and work.outgrown():
                work.keep(now=True)
                return
            if work is not None and work.keep():
                self._facts = work.facts()  # after they were saved: no figure is ever taken back
            settle()
            if not busy:
                self._stop.wait(PAUSE_S if work is not None else IDLE_S)
        if self._work is not None:
            self._work.keep(now=True)

    def _follow(self) -> None:
        table = self._table.poll()
        if table is None:
            return
        if self._work is None:
            if not table.shadows:
                return
            # Not before there is a shadow: onnxruntime and what it takes would only lie in memory.
            from gateway.mirror.work import Work

            self._work = Work(self._config, self._mark)
        self._work.follow(table)

    def _beat(self) -> None:
        while not select.select([self._wake], [], [], BEAT_S)[0]:
            self._board.write({"pid": os.getpid(), "heartbeat_ns": time.monotonic_ns(), **self._facts})
            self._end_if_hung()
        self._stop.set()
        time.sleep(LEAVE_S)
        # Without a core the other thread would not even notice. What it was about is nobody's fault.
        self._mark.end()
        os._exit(0)

    def _end_if_hung(self) -> None:
        """Ends this process where a run cannot be ended: nothing less helps, and the mark says whose it was."""
        since_ns, before_ns = self._mark.since_ns, self._mark.processor_ns
        if not since_ns:
            return
        under_way_ns = time.monotonic_ns() - since_ns
        taken_ns = time.clock_gettime_ns(self._clock) - before_ns
        if under_way_ns > STUCK_NS or taken_ns > (LOADING_NS if self._mark.doing is Doing.LOADING else HUNG_NS):
            log(logging.ERROR, "mirror_hung", under_way_ms=under_way_ns // 1_000_000)
            os.kill(os.getpid(), signal.SIGKILL)


def give_way(config: Config) -> None:
    """Has this thread run after everybody else, and the process take so much memory and no more.

    What is limited is what it has for itself: the online store and the journals, which it only maps, are not counted.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), config.mirror_niceness)
    if config.mirror_niceness == LAST and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = config.mirror_bytes if most == resource.RLIM_INFINITY else min(most, config.mirror_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
