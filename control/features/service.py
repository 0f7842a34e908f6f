"""FeaturesService on the wire."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from control.features.chunk import LISTS, Column, check_chunk
from control.features.log import FeatureLog
from control.features.views import ViewRecord, apply_view, find_view, list_views
from control.registry.document import read_view
from control.security import caller
from control.store.idempotency import LONGEST_KEY, once
from control.store.store import Store, Unit
from control.v1 import features_pb2 as pb
from control.v1.features_pb2_grpc import FeaturesServiceServicer
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import FeatureView

APPLY: Final = "/control.v1.FeaturesService/ApplyView"
MATERIALIZE: Final = "/control.v1.FeaturesService/Materialize"
LONGEST_STREAM_KEY: Final = LONGEST_KEY - len("/4294967295")
"""Characters of a stream's key: each chunk's key is that and the chunk's number."""


class FeaturesService(FeaturesServiceServicer):
    """Stores views, and appends rows to the feature log."""

    def __init__(self, store: Store, log: FeatureLog, clock: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._log = log
        self._clock = clock

    def ApplyView(  # noqa: N802 - named by the protocol
        self, request: pb.ApplyViewRequest, context: grpc.ServicerContext
    ) -> pb.ApplyViewResponse:
        """Stores a view's definition."""
        view = read_view(request.definition_yaml)

        def change(unit: Unit) -> bytes:
            created = apply_view(unit, view)
            found = find_view(unit.connection, view.digest())
            return pb.ApplyViewResponse(view=_view(found), created=created).SerializeToString()

        content = request.SerializeToString(deterministic=True)
        who = caller(context).actor
        return pb.ApplyViewResponse.FromString(once(self._store, who, request.idempotency_key, APPLY, content, change))

    def ListViews(  # noqa: N802 - named by the protocol
        self,
        request: pb.ListViewsRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - the protocol's signature
    ) -> pb.ListViewsResponse:
        """Lists view definitions."""
        with self._store.read() as connection:
            return pb.ListViewsResponse(views=[_view(found) for found in list_views(connection, request.name)])

    def Materialize(  # noqa: N802 - named by the protocol
        self, request_iterator: Iterator[pb.MaterializeRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.MaterializeResponse]:
        """Appends chunk after chunk, answering each when it is durable."""
        header = _header(request_iterator)
        with self._store.read() as connection:
            view = find_view(connection, header.view_hash, header.view).definition
        actor = caller(context).actor
        for index, message in enumerate(request_iterator):
            if message.WhichOneof("part") != "rows":
                raise Fault(Reason.ARGUMENT_INVALID, f"message {index + 2} of the stream has no rows", field="rows")
            key = f"{header.idempotency_key}/{index}"
            yield self._append(actor, key, view, message.rows)

    def _append(self, actor: str, key: str, view: FeatureView, rows: pb.FeatureRows) -> pb.MaterializeResponse:
        columns = [_column(column) for column in rows.columns]
        digest = view.digest()
        # The hash of the rows stands for them: the same chunk under the same key is the same change.
        content = f"{digest}/{hashlib.sha256(rows.SerializeToString(deterministic=True)).hexdigest()}".encode()

        chunk = check_chunk(view, rows.keys, rows.event_times_ns, columns, self._clock())

        def change(unit: Unit) -> bytes:
            sequence = self._log.append(unit, view, chunk)
            facts = {"view": view.name, "hash": digest, "batch": sequence, "rows": len(chunk.keys)}
            unit.record("features.materialize", f"{view.name}@{digest[:12]}", facts)
            return pb.MaterializeResponse(sequence=sequence, rows=len(chunk.keys)).SerializeToString()

        answer = pb.MaterializeResponse.FromString(once(self._store, actor, key, MATERIALIZE, content, change))
        self._log.announce(answer.sequence)
        return answer


def _header(messages: Iterator[pb.MaterializeRequest]) -> pb.MaterializeHeader:
    first = next(messages, None)
    if first is None or first.WhichOneof("part") != "header":
        raise Fault(Reason.ARGUMENT_INVALID, "the first message of the stream must be the header", field="header")
    header = first.header
    if not 1 <= len(header.idempotency_key) <= LONGEST_STREAM_KEY:
        raise Fault(
            Reason.IDEMPOTENCY_KEY_MISSING,
            f"header.idempotency_key: a stream takes one of 1 to {LONGEST_STREAM_KEY} characters, "
            f"this one has {len(header.idempotency_key)}",
        )
    if not (header.view_hash or header.view):
        raise Fault(Reason.ARGUMENT_INVALID, "header: give view_hash, or view for its newest definition", field="view")
    return header


def _column(column: pb.FeatureColumn) -> Column:
    lists = {name: getattr(column, name) for name in LISTS.values()}
    return Column(column.name, {name: values for name, values in lists.items() if values}, column.nulls)


def _view(found: ViewRecord) -> pb.FeatureView:
    return pb.FeatureView(
        name=found.name,
        hash=found.hash,
        definition_json=found.definition_json,
        applied_at_ns=found.applied_at_ns,
        applied_by=found.applied_by,
        last_sequence=found.last_sequence,
        rows=found.rows,
    )
