"""A control plane of a few lines: a real gRPC server that says what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Self

import grpc

from control.v1 import data_plane_pb2 as pb
from control.v1.data_plane_pb2_grpc import DataPlaneServiceServicer, add_DataPlaneServiceServicer_to_server
from gateway.features.writer import Batch
from tests.gateway.tiny import HISTORY

TOKEN = "a-token-of-the-test"


class FakeControl(DataPlaneServiceServicer):
    """Publishes tables and batches to whoever watches, and keeps the reports."""

    def __init__(self) -> None:
        self.history_id = HISTORY
        self.table: pb.RouteTable | None = None
        self.acknowledged: tuple[pb.Acknowledgement, ...] = ()
        self.artifacts: dict[str, bytes] = {}
        self.batches: Sequence[Batch] = ()
        self.reports: list[pb.WatchRoutesRequest] = []
        self.watched_from: list[int] = []
        self.address = "127.0.0.1:0"
        self._changed = threading.Condition()
        self._open = False

    def __enter__(self) -> Self:
        """Listens, at the address that it had before if it had one."""
        self._open = True
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        add_DataPlaneServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._server.stop(0).wait()

    def publish(self, table: pb.RouteTable) -> None:
        """Sends a table to every watcher."""
        with self._changed:
            self.table = table
            self._changed.notify_all()

    def acknowledge(self, entries: Mapping[int, tuple[int, int]]) -> None:
        """Says of withdrawals, by number, which entry records them and from which revision on they count."""
        with self._changed:
            self.acknowledged = tuple(
                pb.Acknowledgement(number=number, sequence=sequence, revision=revision)
                for number, (sequence, revision) in entries.items()
            )
            self._changed.notify_all()

    def append(self, *batches: Batch) -> None:
        """Appends to the feature log."""
        with self._changed:
            self.batches = (*self.batches, *batches)
            self._changed.notify_all()

    def confirmed(self, revision: int) -> bool:
        """Whether the newest report says that the revision is in force."""
        return bool(self.reports) and self.reports[-1].revision == revision

    def WatchRoutes(self, request_iterator: Any, context: Any) -> Iterator[pb.WatchRoutesResponse]:  # noqa: N802 - the proto's name
        """Sends the table now and whenever another one is published."""
        _check(context)
        threading.Thread(target=self._listen, args=(request_iterator,), daemon=True).start()
        sent: tuple[object, ...] = (None, ())
        while self._wait_while(lambda: (self.table, self.acknowledged) == sent, context):  # noqa: B023 - called before the next turn
            sent = self.table, self.acknowledged
            yield pb.WatchRoutesResponse(table=self.table, acknowledged=self.acknowledged)

    def FetchArtifact(self, request: Any, context: Any) -> Iterator[pb.FetchArtifactResponse]:  # noqa: N802
        """Sends an artifact in pieces."""
        _check(context)
        if request.sha256 not in self.artifacts:
            context.abort(grpc.StatusCode.NOT_FOUND, "no artifact with that digest is stored")
        content = self.artifacts[request.sha256]
        for start in range(0, len(content), 100):
            yield pb.FetchArtifactResponse(chunk=content[start : start + 100])

    def WatchFeatures(self, request: Any, context: Any) -> Iterator[pb.WatchFeaturesResponse]:  # noqa: N802
        """Sends the batches from a number on, and goes on as they are appended."""
        _check(context)
        self.watched_from.append(request.from_sequence)
        for at in count(request.from_sequence - 1):
            if not self._wait_while(lambda: len(self.batches) <= at, context):  # noqa: B023 - called before the next turn
                return
            yield pb.WatchFeaturesResponse(batch=_message(self.batches[at]), history_id=self.history_id)

    def _wait_while(self, nothing_new: Callable[[], bool], context: Any) -> bool:
        """Waits for something new; False when the server closes or the caller has gone."""
        with self._changed:
            while self._open and context.is_active() and nothing_new():
                self._changed.wait(0.2)
            return self._open and bool(context.is_active())

    def _listen(self, requests: Any) -> None:
        try:
            for report in requests:
                self.reports.append(report)
        except grpc.RpcError:
            return


def _check(context: Any) -> None:
    if ("authorization", f"Bearer {TOKEN}") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not known")


def _message(batch: Batch) -> pb.FeatureBatch:
    return pb.FeatureBatch(
        sequence=batch.sequence,
        view_hash=batch.view_hash,
        definition_json=batch.definition_json,
        additions=[
            pb.DictionaryAddition(feature=feature, first_code=code, values=words)
            for feature, (code, words) in batch.additions.items()
        ],
        keys=batch.keys,
        rows=batch.rows,
    )
