"""The route table, derived from the records: never edited, whole, immutable. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from control.rollout.canaries import Canary, Shadow, canary_of, shadows_of
from control.rollout.lifecycle import Stage
from control.rollout.rollouts import Rollout
from control.rollout.stopping import Stop, reasons
from control.rollout.trial import Trial, changed_at, on_trial
from control.rollout.version import PinnedViewRecord, ServedVersion, VersionRecord, is_former, served
from gateway.contract.document import document_from_json

KEPT: Final = 3
"""How many former champions of a model stay available, beside the one that answers."""


class ModelRoute(NamedTuple):
    """Who answers for one model."""

    model: str
    champion: ServedVersion
    kept: tuple[ServedVersion, ...] = ()
    """Former champions to step back to, the last one first."""
    canary: Canary | None = None
    shadows: tuple[Shadow, ...] = ()
    stopped_because: str | None = None
    """Why nobody answers, though there is a champion; None unless the model is stopped."""


class Rollouts(NamedTuple):
    """What the table has to say of rollouts."""

    running: tuple[Rollout, ...]
    sequence: int
    """The newest audit entry that changed what the table says of any rollout, also of one that ended."""


NO_ROLLOUTS: Final = Rollouts((), 0)


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
    rollouts: Rollouts = NO_ROLLOUTS,
    stops: Collection[Stop] = (),
) -> RouteTable:
    """The one table that these records make, in whatever order they come.

    A champion leaves only by the entry that makes another one, so the newest entry that moved a version which is or was
    champion is the newest one that changed the table, unless one about a rollout is newer. `trials` name versions among
    the records, as rollouts do; a normal installation has none of the former.
    """
    known = sorted(records)
    by_number = {(record.model, record.version): record for record in known}
    rolling = rollouts.running
    champions = [record for record in known if record.stage is Stage.CHAMPION]
    kept = {record.model: kept_versions(known, record.model) for record in champions}
    tried = on_trial(trials, known, champions)
    named = [*champions, *(record for former in kept.values() for record in former)]
    named += [by_number[one.model, number] for one in rolling for number in (one.challenger, one.control)]
    moved = [record.stage_sequence for record in known if record in champions or record.champion_sequence]
    because = reasons(stops)
    routes = [
        ModelRoute(
            record.model,
            served(record),
            tuple(served(former) for former in kept[record.model]),
            canary_of(record.model, rolling, by_number),
            shadows_of(record.model, rolling, by_number),
            because.get(record.model),
        )
        for record in champions
    ]
    return RouteTable(
        history_id,
        max(*moved, changed_at(trials, known), rollouts.sequence, *(stop.sequence for stop in stops), 0),
        tuple(sorted([*routes, *(ModelRoute(record.model, served(record, unapproved=True)) for record in tried)])),
        tuple(views[view_hash] for view_hash in sorted(pinned_hashes(named))),
    )


def kept_versions(records: Iterable[VersionRecord], model: str) -> list[VersionRecord]:
    """The former champions of a model whose artifacts and views stay on every gateway, the last one first."""
    former = [record for record in records if record.model == model and is_former(record)]
    return sorted(former, key=lambda record: -record.champion_sequence)[:KEPT]
