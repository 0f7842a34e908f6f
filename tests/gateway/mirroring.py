"""A pipeline that journals in this process, and a mirror in a process of its own that reads it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

from control.v1 import data_plane_pb2 as pb
from gateway.derivation import Trying, derive_snapshot
from gateway.features.store import OnlineStore
from gateway.features.writer import Batch, OnlineWriter
from gateway.journal import JournalWriter
from gateway.pipeline import Pipeline
from gateway.run import Attempts
from gateway.servable import load, stored_views
from gateway.transport import Call
from gateway.v1 import scoring_pb2
from gateway.wire.routes import parse_routes
from tests.gateway import tiny
from tests.gateway.roles import board, prepared, role
from tests.support import until

BATCH: Final = "/gateway.v1.ScoringService/ScoreBatch"
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
GOOD: Final = [f"S{index}" for index in range(240)]
"""Subscribers with 0 to 14 minutes."""
TRAPS: Final = [f"T{index}" for index in range(20)]
"""Subscribers with 20, on whom versions break that do."""


def shadow(rollout_id: int, version: tiny.Version, **more: Any) -> pb.Shadow:
    """A shadow, as a route table names it."""
    given = {"mirrored_bps": 10_000, "latency_slack": 1.2, **more}
    return pb.Shadow(rollout_id=rollout_id, version=version.served(), **given)


def shadowed(*shadows: pb.Shadow, champion: tiny.Version | None = None) -> pb.RouteTable:
    """A table of revision 10 in which version 1 answers, or another, and these are mirrored."""
    table = tiny.table(10, champion or tiny.version(1))
    table.models[0].shadows.extend(shadows)
    return table


class Mirroring:
    """A data directory in which a worker's journal is written by this process."""

    def __init__(self, data: Path, table: pb.RouteTable, *versions: tiny.Version, **settings: Any) -> None:
        self.config = prepared(data, mirror_niceness=0, **settings)
        for version in versions:
            for digest, content in version.artifacts().items():
                (self.config.artifacts_path / digest).write_bytes(content)
        self.materialize(*everybody())
        journal = JournalWriter(self.config.journal_path / "worker-0", 8 << 20)  # as in gateways.py
        self.pipeline = Pipeline(OnlineStore(self.config.features_path), journal, 1 << 20)
        self.publish(table)

    def materialize(self, *batches: Batch) -> None:
        """Applies feature batches."""
        writer = OnlineWriter(self.config.features_path, 1 << 26)
        for batch in batches:
            writer.apply(batch, tiny.HISTORY)
        writer.close()

    def publish(self, table: pb.RouteTable) -> None:
        """Has the worker follow a table, and then the mirror."""
        raw = table.SerializeToString()
        parsed = parse_routes(raw)
        named = [*parsed.champions.values()]
        named += [one for canary in parsed.canaries.values() for one in (canary.challenger, canary.control)]
        loaded = {one.digest: load(one, self.config.artifacts_path) for one in named}
        views = {
            model: tuple(view for one in found for view in stored_views(one.version))
            for model, found in parsed.shadows.items()
        }
        attempts = {canary.rollout_id: Attempts() for canary in parsed.canaries.values()}
        trying = Trying(attempts, frozenset(), views, watched=True)
        self.pipeline.snapshot = derive_snapshot(parsed, loaded, self.pipeline.snapshot, 1 << 30, trying)
        fresh = self.config.routes_path.with_suffix(".new")
        fresh.write_bytes(raw)
        fresh.rename(self.config.routes_path)

    def score(self, keys: Sequence[str], version: int = 0) -> scoring_pb2.ScoreBatchResponse:
        """Scores subscribers in one call."""
        columns = [scoring_pb2.EntityColumn(entity="subscriber", keys=keys)]
        request = scoring_pb2.ScoreBatchRequest(model=tiny.MODEL, entities=columns, version=version)
        return scoring_pb2.ScoreBatchResponse.FromString(self.call(BATCH, request))

    def call(self, method: str, message: Any) -> bytes:
        """Has a call answered, well."""
        call = Call(method, message.SerializeToString(), time.monotonic_ns() + 10**12)
        reply = self.pipeline.process([call])[0]
        assert reply.code == 0, reply.message
        return reply.body

    @contextmanager
    def mirror(self, *scored: int) -> Iterator[Popen[bytes]]:
        """A mirror, as soon as it scores the shadows of these rollouts."""
        with role("mirror", self.config) as process:
            until(lambda: set(scored) <= set(board(self.config, "mirror").get("scored", ())), 60)
            yield process

    def report(self, rollout_id: int) -> dict[str, Any]:
        """What the mirror says of a rollout."""
        found: dict[str, Any] = board(self.config, "mirror").get("shadows", {}).get(str(rollout_id), {})
        return found

    def figures(self, rollout_id: int) -> dict[str, Any]:
        """Its figures for people."""
        found: dict[str, Any] = json.loads(self.report(rollout_id)["figures_json"])
        return found

    def once(self, rollout_id: int, **fields: int) -> dict[str, Any]:
        """The report, once its fields are at least these."""
        return until(lambda: self._reached(rollout_id, fields), 60)

    def _reached(self, rollout_id: int, fields: dict[str, int]) -> dict[str, Any]:
        report = self.report(rollout_id)
        return report if report and all(report[name] >= least for name, least in fields.items()) else {}


def everybody() -> list[Batch]:
    """The feature batches of all subscribers."""
    batches = [tiny.batch(1 + part, GOOD[part::15], minutes=float(part)) for part in range(15)]
    return [*batches, tiny.batch(16, TRAPS, minutes=tiny.SPINS_AT)]
