"""The route table, derived from the records: never edited, whole, immutable. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from control.rollout.lifecycle import Stage
from control.rollout.version import PinnedViewRecord, VersionRecord
from gateway.contract.document import document_from_json


class ServedVersion(NamedTuple):
    """A version, as a gateway needs it."""

    version: int
    digest: str
    model_sha256: str
    golden_sha256: str
    document_json: str
    feature_sequence: int


class ModelRoute(NamedTuple):
    """Who answers for one model."""

    model: str
    champion: ServedVersion


class RouteTable(NamedTuple):
    """Who answers. `revision` is the number of the audit entry that made it so; 0 before the first."""

    history_id: str
    revision: int
    models: tuple[ModelRoute, ...]
    views: tuple[PinnedViewRecord, ...]


def pinned_hashes(records: Iterable[VersionRecord]) -> frozenset[str]:
    """The hashes of every view that these versions pin."""
    return frozenset(
        view_hash for record in records for view_hash in document_from_json(record.document_json).views.values()
    )


def derive(history_id: str, records: Iterable[VersionRecord], views: Mapping[str, PinnedViewRecord]) -> RouteTable:
    """The one table that these records make, in whatever order they come.

    A champion leaves only by the entry that makes another one, so the newest entry that made a champion is the newest
    one that changed the table.
    """
    champions = sorted(record for record in records if record.stage is Stage.CHAMPION)
    return RouteTable(
        history_id,
        max((record.stage_sequence for record in champions), default=0),
        tuple(ModelRoute(record.model, _served(record)) for record in champions),
        tuple(views[view_hash] for view_hash in sorted(pinned_hashes(champions))),
    )


def _served(record: VersionRecord) -> ServedVersion:
    return ServedVersion(
        record.version,
        record.digest,
        record.model_sha256,
        record.golden_sha256,
        record.document_json,
        record.feature_sequence,
    )
