"""The route table, derived from the records: never edited, whole, immutable. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from control.rollout.lifecycle import Stage
from control.rollout.stopping import Stop, reasons
from control.rollout.trial import Trial, changed_at, on_trial
from control.rollout.version import PinnedViewRecord, VersionRecord
from gateway.contract.document import document_from_json

KEPT: Final = 3
"""How many former champions of a model stay available, beside the one that answers."""


class ServedVersion(NamedTuple):
    """A version, as a gateway needs it."""

    version: int
    digest: str
    model_sha256: str
    golden_sha256: str
    document_json: str
    feature_sequence: int
    unapproved: bool = False
    """Whether it is on trial."""
    champion_revision: int = 0
    """The revision by which it last became champion."""


class ModelRoute(NamedTuple):
    """Who answers for one model."""

    model: str
    champion: ServedVersion
    kept: tuple[ServedVersion, ...] = ()
    """Former champions to step back to, the last one first."""
    stopped_because: str | None = None
    """Why nobody answers, though there is a champion; None unless the model is stopped."""


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


def derive(
    history_id: str,
    records: Iterable[VersionRecord],
    views: Mapping[str, PinnedViewRecord],
    trials: Collection[Trial] = (),
    stops: Collection[Stop] = (),
) -> RouteTable:
    """The one table that these records make, in whatever order they come.

    A champion leaves only by the entry that makes another one, so the newest entry that moved a version which is or was
    champion is the newest one that changed the table. `trials` name versions among the records; a normal installation
    has none.
    """
    known = sorted(records)
    champions = [record for record in known if record.stage is Stage.CHAMPION]
    kept = {record.model: kept_versions(known, record.model) for record in champions}
    tried = on_trial(trials, known, champions)
    named = [*champions, *(record for former in kept.values() for record in former)]
    moved = [record.stage_sequence for record in known if record in champions or record.champion_sequence]
    because = reasons(stops)
    routes = [
        ModelRoute(
            record.model,
            _served(record),
            tuple(_served(former) for former in kept[record.model]),
            because.get(record.model),
        )
        for record in champions
    ]
    return RouteTable(
        history_id,
        max((*moved, changed_at(trials, known), *(stop.sequence for stop in stops)), default=0),
        tuple(sorted([*routes, *(ModelRoute(record.model, _served(record, unapproved=True)) for record in tried)])),
        tuple(views[view_hash] for view_hash in sorted(pinned_hashes(named))),
    )


def kept_versions(records: Iterable[VersionRecord], model: str) -> list[VersionRecord]:
    """The former champions of a model whose artifacts and views stay on every gateway, the last one first."""
    former = [record for record in records if record.model == model and is_former(record)]
    return sorted(former, key=lambda record: -record.champion_sequence)[:KEPT]


def is_former(record: VersionRecord) -> bool:
    """Whether a version was champion, may be again without a new approval, and is not now."""
    return record.champion_sequence > 0 and record.stage in (Stage.STANDBY, Stage.APPROVED)


def _served(record: VersionRecord, unapproved: bool = False) -> ServedVersion:
    return ServedVersion(
        record.version,
        record.digest,
        record.model_sha256,
        record.golden_sha256,
        record.document_json,
        record.feature_sequence,
        unapproved,
        record.champion_sequence,
    )
