"""The gateway's side of the control plane's data-plane service: routes, artifacts and feature batches down, reports up.

While the control plane cannot be reached nothing changes here, and nothing is asked of anybody: the uplink goes on
trying. Each attempt is a new connection, so that none that is stuck can keep it from one that would work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

from control.v1 import data_plane_pb2 as pb
from control.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from gateway.artifacts import Artifacts
from gateway.board import Boards
from gateway.config import Config
from gateway.contract.alerts import Alert, AlertText, alert, at
from gateway.contract.errors import Fault
from gateway.features.writer import Batch
from gateway.security import own_token
from gateway.stepback import Withdrawal, acknowledged, settled
from gateway.tables import EMPTY, Table, TableFiles, read_table, refusal
from gateway.telemetry import log
from gateway.wire.routes import parse_routes
from gateway.withdrawals import Withdrawals

if TYPE_CHECKING:
    from control.v1.data_plane_pb2_grpc import DataPlaneServiceAsyncStub  # the stub's type, of which there is no class

OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 65_000),  # servers that punish pings allow one a minute
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # also how long connecting may take
    ("grpc.max_receive_message_length", 64 << 20),
]
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
REPORT_S: Final = 1.0
"""How often a report goes up when nothing has changed."""
LOOK_S: Final = 0.04
HURRIED_LOOK_S: Final = 0.01
HURRY_NS: Final = 10_000_000_000
"""How long after a new table its confirmation is looked for in a hurry: a promotion waits for it."""
FETCH_S: Final = 300.0
MOST_PROBLEMS: Final = 32
LONGEST_PROBLEM: Final = 500


Pinned = tuple[str, int, int]
"""A model, a version of it that callers named, and when they last did (UTC, nanoseconds)."""


class Lost(Exception):  # noqa: N818 - a state of the world, not an error of ours
    """The control plane could not be reached, or refused; the message says which in words."""


def pause_s(attempt: int) -> float:
    """How long to wait after so many failed attempts: doubling, and spread so that gateways do not come together."""
    longest = min(FIRST_PAUSE_S * float(1 << min(attempt, 10)), LONGEST_PAUSE_S)
    return longest * (0.5 + secrets.randbelow(1000) / 2000)


@contextlib.asynccontextmanager
async def connection(config: Config) -> AsyncIterator[tuple[DataPlaneServiceAsyncStub, aio.Metadata]]:
    """A new connection and the metadata that every call on it bears; raises Lost for whatever ends it."""
    try:
        token = own_token(config.token_file, config.data)
    except OSError:
        raise Lost("the file with the gateway's token cannot be read (gateway.token_file)") from None
    try:
        async with aio.insecure_channel(config.control, OPTIONS) as channel:
            yield DataPlaneServiceStub(channel), aio.Metadata(("authorization", f"Bearer {token}"))
    except aio.AioRpcError as error:
        said = (error.details() or "").splitlines()
        raise Lost(f"the control plane: {error.code().name}: {said[0][:300] if said else 'no details'}") from error


async def feature_batches(config: Config, from_sequence: int, history_id: str) -> AsyncIterator[tuple[str, Batch]]:
    """The batches of the feature log from a number on, each with the history that it belongs to; raises Lost."""
    request = pb.WatchFeaturesRequest(from_sequence=from_sequence, history_id=history_id)
    async with connection(config) as (stub, metadata):
        async for response in stub.WatchFeatures(request, metadata=metadata):
            yield response.history_id, _batch(response.batch)
    raise Lost("the control plane ended the stream of features")


def _batch(message: pb.FeatureBatch) -> Batch:
    return Batch(
        message.sequence,
        message.view_hash,
        message.definition_json,
        {addition.feature: (addition.first_code, tuple(addition.values)) for addition in message.additions},
        message.keys,
        message.rows,
    )


class RouteFollower:
    """Takes route tables from the control plane, and puts each on disk once every artifact that it names is there."""

    def __init__(
        self,
        config: Config,
        gateway_id: str,
        pinned: Callable[[], Iterable[Pinned]] = lambda: (),
        traffic: Callable[[], Iterable[Mapping[str, Any]]] = lambda: (),
    ) -> None:
        """`traffic` says what each model's requests were like lately, by the names of the wire's ModelTraffic."""
        self.config = config
        self._pinned = pinned
        self._traffic = traffic
        self.gateway_id = gateway_id
        self.connected = False
        self.artifacts = Artifacts(config.artifacts_path)
        self._files = TableFiles(config.routes_path)
        self.table = EMPTY
        """The table on disk."""
        self.sequence = 0
        """The last feature batch that the materializer was seen to have applied."""
        self.refused_history_id = ""
        """The history that the control plane offers and that an operator would have to accept; empty for none."""
        self._withdrawals = Withdrawals(config.data)
        self._boards = Boards(config.run_path, config.worker_count)
        self._problems: dict[Alert, str] = {}
        self._wanted: Table | None = None
        self._offered = asyncio.Event()
        self._taken_ns = 0

    async def follow(self) -> None:
        """Works until it is cancelled."""
        self.table = self._files.recall()
        await asyncio.to_thread(self.artifacts.verify)
        if not self.config.control:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._apply())

    def problems(self) -> list[AlertText]:
        """What is wrong in this gateway, in words."""
        children = self._boards.supervisor().get("children", ())
        found = [alert(which, words) for which, words in self._problems.items()]
        found += [child["problem"] for child in children if child["problem"]]
        found += self._boards.materializer().get("problems", ())
        found += self._boards.recorder().get("problems", ())
        found += self._boards.mirror().get("problems", ())
        for index, said in self._boards.workers().items():
            found += [at(f"worker {index}", problem) for problem in said["problems"]]
        return [AlertText(problem[:LONGEST_PROBLEM]) for problem in found[:MOST_PROBLEMS]]

    def report(self) -> pb.WatchRoutesRequest:
        """What goes up."""
        self.sequence = self._boards.materializer().get("sequence", self.sequence)
        return pb.WatchRoutesRequest(
            gateway_id=self.gateway_id,
            revision=self._boards.revision(),
            feature_sequence=self.sequence,
            problems=self.problems(),
            history_id=self.table.history_id,
            withdrawals=[_withdrawal(one) for one in self._withdrawn()],
            pinned=[pb.PinnedVersion(model=model, version=number, last_ns=ns) for model, number, ns in self._pinned()],
            traffic=[pb.ModelTraffic(**lately) for lately in self._traffic()],
        )

    def _withdrawn(self) -> tuple[Withdrawal, ...]:
        try:
            found = self._withdrawals.read()
        except (OSError, ValueError) as error:
            self._report_problem(Alert.WITHDRAWALS_NOT_KEPT, _words(error))
            return ()
        self._solve(Alert.WITHDRAWALS_NOT_KEPT)
        return found

    async def _watch(self) -> None:
        """Holds the stream of tables and reports, for ever."""
        attempt = 0
        while True:
            try:
                async for response in self._responses():
                    self._solve(Alert.CONTROL_UNREACHABLE)
                    self.connected, attempt = True, 0
                    self._acknowledge(response.acknowledged)
                    self._consider(response.table.SerializeToString())
            except Lost as lost:
                self._report_problem(Alert.CONTROL_UNREACHABLE, str(lost))
                self.connected = False
            attempt += 1
            await asyncio.sleep(pause_s(attempt))

    async def _responses(self) -> AsyncIterator[pb.WatchRoutesResponse]:
        """The tables that one connection brings, and what they acknowledge; raises Lost."""
        async with connection(self.config) as (stub, metadata):
            async for response in stub.WatchRoutes(self._reports(), metadata=metadata):
                yield response
        raise Lost("the control plane ended the stream of routes")

    async def _reports(self) -> AsyncIterator[pb.WatchRoutesRequest]:
        """Reports: soon after each change, and every second."""
        last, sent = None, 0.0
        while True:
            report = self.report()
            if report != last or time.monotonic() > sent + REPORT_S:
                last, sent = report, time.monotonic()
                yield report
            hurried = report.revision < self.table.revision and time.monotonic_ns() < self._taken_ns + HURRY_NS
            await asyncio.sleep(HURRIED_LOOK_S if hurried else LOOK_S)

    def _acknowledge(self, said: Iterable[pb.Acknowledgement]) -> None:
        """Takes note of what the control plane has recorded, and ends what the table on disk makes good."""
        if entries := {one.number: (one.sequence, one.revision) for one in said}:
            self._change_withdrawals(lambda found: acknowledged(found, entries))
            self._settle()

    def _settle(self) -> None:
        if self.table.raw:
            table = parse_routes(self.table.raw)
            self._change_withdrawals(lambda found: settled(found, table))

    def _change_withdrawals(self, decide: Callable[[Sequence[Withdrawal]], Sequence[Withdrawal]]) -> None:
        try:
            self._withdrawals.change(decide)
        except (OSError, ValueError) as error:  # they stay in force, and the control plane says it again
            self._report_problem(Alert.WITHDRAWALS_NOT_KEPT, _words(error))

    def _consider(self, raw: bytes) -> None:
        """Wants an offered table, unless it must be refused."""
        try:
            offered = read_table(raw)
            why = refusal(self.table, offered)
            foreign = bool(self.table.history_id) and offered.history_id != self.table.history_id
            self.refused_history_id = offered.history_id if foreign else ""
        except ValueError as error:
            why = str(error)
        if why:
            self._report_problem(Alert.TABLE_REFUSED, why)
            return
        self._solve(Alert.TABLE_REFUSED)
        self._wanted = offered
        self._offered.set()

    async def _apply(self) -> None:
        """Fetches what the wanted table names and then puts it on disk, for ever; a newer one replaces it meanwhile."""
        attempt = 0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._offered.wait(), pause_s(attempt) if attempt else None)
            self._offered.clear()
            table = self._wanted
            if table is None:
                continue
            try:
                for digest in self.artifacts.missing(table.digests):
                    await self._fetch(digest)
                self._put(table)
            except (Fault, Lost, OSError) as error:
                attempt += 1
                self._report_problem(Alert.ARTIFACT_WAITED_FOR, f"revision {table.revision} waits: {_words(error)}")
            else:
                attempt = 0
                self._solve(Alert.ARTIFACT_WAITED_FOR)

    async def _fetch(self, digest: str) -> None:
        request = pb.FetchArtifactRequest(sha256=digest)
        with contextlib.closing(self.artifacts.receive(digest)) as incoming:
            async with connection(self.config) as (stub, metadata):
                async for response in stub.FetchArtifact(request, metadata=metadata, timeout=FETCH_S):
                    incoming.add(response.chunk)
            await asyncio.to_thread(incoming.finish)

    def _put(self, table: Table) -> None:
        """Puts the table where workers look, the former ones beside it, and drops artifacts that none of them names."""
        if table.raw != self.table.raw:
            self._files.put(table, self.table)
            self.table, self._taken_ns = table, time.monotonic_ns()
            log(logging.INFO, "routes_taken", revision=table.revision, history_id=table.history_id)
            self._settle()
        kept = {*table.digests, *(digest for former in self._files.former() for digest in former.digests)}
        self.artifacts.keep_only(kept)

    def _report_problem(self, which: Alert, words: str) -> None:
        if self._problems.get(which) != words:
            log(logging.WARNING, "uplink_problem", reason=which, problem=words)
        self._problems[which] = words

    def _solve(self, which: Alert) -> None:
        self._problems.pop(which, None)


def _words(error: Fault | Lost | OSError | ValueError) -> str:
    return f"a file cannot be kept: {error.strerror}" if isinstance(error, OSError) else str(error)


def _withdrawal(one: Withdrawal) -> pb.Withdrawal:
    said = {name: value for name, value in one._asdict().items() if name not in ("recorded_by", "counted_from")}
    return pb.Withdrawal(**said)
