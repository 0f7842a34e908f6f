"""A worker: transport, pipeline and servables in one process, on one event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import grpc
import uvloop
from grpc_channelz.v1 import channelz

from gateway.assignment import Snapshot, served_by
from gateway.blame import loading_path, trying_path
from gateway.board import BEAT, Board, BoardReader
from gateway.config import Config
from gateway.features.store import OnlineStore
from gateway.journal import JournalWriter
from gateway.loader import POLL_S, Loader
from gateway.outcome_log import OutcomeLog
from gateway.outcomes import Outcomes
from gateway.pipeline import Pipeline
from gateway.reflection import SERVING, add_reflection
from gateway.repository import Repository
from gateway.telemetry import log
from gateway.transport.grpcio import GrpcioTransport
from gateway.trying import TryMark
from gateway.wire.methods import METHODS
from gateway.wire.status import refusal

BEAT_S: Final = 0.05
UNWATCHED_NS: Final = 2_000_000_000
"""How old the observer's last sign of life may be."""
OPEN_S: Final = 3.0


def run(config: Config, index: int) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is in flight."""
    uvloop.run(_serve(config, index))


async def _serve(config: Config, index: int) -> None:
    journal = JournalWriter(
        config.journal_path / f"worker-{index}", max(config.journal_bytes // config.worker_count, 1 << 17)
    )
    trying = TryMark(trying_path(config.run_path, index))
    pipeline = Pipeline(OnlineStore(config.features_path), journal, config.max_message_bytes, trying)
    turn = config.run_path / f"loading-{index % max(config.worker_count // 2, 1)}.lock"  # half of the workers at most
    observed = Observed(config)
    loading = TryMark(loading_path(config.run_path, index))
    loader = Loader(config.routes_path, config.artifacts_path, pipeline, turn, observed.lately, loading)
    served = ServedHere(config, pipeline, loader)
    outcome_log = OutcomeLog(config.outcomes_path / f"worker-{index}", config.outcomes_bytes // config.worker_count)
    outcomes = Outcomes(outcome_log, pipeline, config.max_message_bytes)
    others = {**Repository(served).methods(), **outcomes.methods()}
    streams = {name: method.streams for name, method in METHODS.items()}
    transport = GrpcioTransport(config, streams, pipeline.process, others, refusal, describe)
    pulse = Pulse(config, index, (pipeline, loader, transport, outcomes))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    await transport.report(serving=False)
    following = asyncio.create_task(loader.follow())
    beating = asyncio.create_task(pulse.beat())
    threading.Thread(target=pulse.write, daemon=True).start()
    await _before_opening(loader, following, stop)
    await transport.start()
    pulse.open = True
    ended, _ = await asyncio.wait(
        (following, beating, asyncio.create_task(stop.wait())), return_when=asyncio.FIRST_COMPLETED
    )
    log(logging.INFO, "draining", in_flight=transport.in_flight)
    pulse.draining = True
    await transport.drain()
    outcomes.close()
    following.cancel()
    beating.cancel()
    for task in ended:
        task.result()  # a loader that ended by an error ends the worker by it


async def _before_opening(loader: Loader, following: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Waits until the worker has something to say: a share of the connections is its own as soon as its port is open.

    At most OPEN_S, so that of many models the first are served while the last are loaded; not at all without a route
    table, since nobody knows when one will come.
    """
    opening_ns = time.monotonic_ns() + int(OPEN_S * 1e9)
    loader.read_table()
    while loader.table is not None and not (loader.ready or following.done() or stop.is_set()):
        if time.monotonic_ns() > opening_ns:
            return
        await asyncio.sleep(POLL_S)


def describe(server: grpc.aio.Server) -> None:
    """Adds reflection and channelz to the serving port."""
    add_reflection(server, SERVING)
    channelz.add_channelz_servicer(server)


class Observed:
    """Whether the observer is at work: a canary that nobody watches is not tried."""

    def __init__(self, config: Config) -> None:
        self._beat = BoardReader(config.run_path / BEAT)

    def lately(self) -> bool:
        """Whether it gave a sign of life within the last two seconds."""
        beat = self._beat.read()
        return beat is not None and time.monotonic_ns() < beat["heartbeat_ns"] + UNWATCHED_NS


class ServedHere:
    """What the calls about models see of this worker."""

    def __init__(self, config: Config, pipeline: Pipeline, loader: Loader) -> None:
        self._pipeline = pipeline
        self._loader = loader
        self._observer = BoardReader(config.run_path / "observer.board")

    @property
    def snapshot(self) -> Snapshot:
        """What is served now."""
        return self._pipeline.snapshot

    def ready(self) -> bool:
        """Whether inference calls are taken."""
        return self._loader.ready

    def problem(self, model: str) -> str:
        """What keeps a model from being loaded."""
        return self._loader.problem(model)

    def totals(self) -> Mapping[str, Any]:
        """What the observer has added up."""
        return self._observer.read() or {}


class Pulse:
    """What a worker says of itself on its board.

    Written by a thread of its own, so that the board shows a run under way, and the age of the loop's last beat when
    the loop hangs.
    """

    def __init__(self, config: Config, index: int, parts: tuple[Pipeline, Loader, GrpcioTransport, Outcomes]) -> None:
        self.board = Board(config.run_path / f"worker-{index}.board")
        self.pipeline, self.loader, self.transport, self.outcomes = parts
        self.open = False
        self.draining = False
        self.beat_ns = time.monotonic_ns()

    async def beat(self) -> None:
        """Marks that the loop is alive, lets the journal recover, and tells the health service when ready."""
        serving = False
        while True:
            self.beat_ns = time.monotonic_ns()
            self.pipeline.journal.recover()
            if self.loader.ready is not serving:
                serving = self.loader.ready
                await self.transport.report(serving)
            await asyncio.sleep(BEAT_S)

    def write(self) -> None:
        """Writes the board for as long as the process lives."""
        while True:
            self.board.write(self.facts())
            time.sleep(BEAT_S)

    def facts(self) -> dict[str, Any]:
        """What the board says."""
        snapshot, in_flight, journal = self.pipeline.snapshot, self.pipeline.in_flight(), self.pipeline.journal
        troubles = (journal.problem, self.outcomes.problem)
        return {
            "pid": os.getpid(),
            "revision": snapshot.revision,
            "ready": self.loader.ready and self.open and not self.draining,
            "in_flight": self.transport.in_flight,
            "overloaded": self.transport.overloaded,
            "versions": [
                {
                    "model": model,
                    "version": servable.served.version,
                    "digest": servable.served.digest,
                    "revision": route.revision,
                    "in_flight": in_flight.get((model, servable.served.version), 0),
                    "last_error": servable.last_error,
                }
                for model, route in snapshot.routes.items()
                for servable in served_by(route)
            ],
            "given_up": self.loader.given_up(),
            "problems": [*self.loader.problems(), *filter(None, troubles)],
            "heartbeat_ns": self.beat_ns,
            "unjournalled": journal.unjournalled,
            "withdrawal": self.loader.withdrawal,
        }
