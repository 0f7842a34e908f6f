"""What a worker serves, derived from the route table and from what is loaded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.assignment import Snapshot, Stopped
from gateway.request import Mark
from gateway.run import Attempts, Canary, Route
from gateway.servable import Servable, StoredView
from gateway.wire import routes
from gateway.wire.routes import RouteTable, ServedVersion


class Trying(NamedTuple):
    """What a worker knows of the versions that it tries."""

    attempts: Mapping[int, Attempts]
    """By rollout."""
    failed: frozenset[str]
    """Digests of versions that cannot be loaded."""
    mirrored: Mapping[str, tuple[StoredView, ...]]
    """By model: the views that its shadows take."""
    watched: bool
    """Whether the observer is at work; nothing is tried unwatched."""


def derive_snapshot(
    table: RouteTable, loaded: Mapping[str, Servable], current: Snapshot, feature_sequence: int, trying: Trying
) -> Snapshot:
    """What to serve by a table: its versions where they are loaded and their features are there, else as before.

    A model that does not follow the table yet keeps the revision by which its version did answer.
    """
    found: dict[str, Route] = {}
    stopped = {model: Stopped(served, table.revision) for model, served in _stopped(table)}
    behind = False
    for model, served in table.champions.items():
        if (servable := _routable(served, loaded, feature_sequence)) is not None:
            canary = _canary(table.canaries.get(model), loaded, feature_sequence, trying)
            behind |= canary is None and _awaits(table.canaries.get(model), trying)
            mirrored = trying.mirrored.get(model, ())
            found[model] = Route(servable, table.revision, _marks(table, served), canary, mirrored)
        elif model not in stopped:
            behind = True
            if model in current.routes:
                found[model] = current.routes[model]
            elif model in current.stopped:  # until the version that was started is loaded
                stopped[model] = current.stopped[model]
    loading = frozenset(table.champions) - frozenset(found) - frozenset(stopped)
    return Snapshot(current.revision if behind else table.revision, found, loading, known=True, stopped=stopped)


def _stopped(table: RouteTable) -> list[tuple[str, ServedVersion]]:
    return [(model, table.champions[model]) for model in table.stopped if model in table.champions]


def to_load(table: RouteTable) -> list[ServedVersion]:
    """Every version that answers somebody by a table; champions come first.

    Of stopped models none: it may be the loading that harms.
    """
    champions = [served for model, served in table.champions.items() if model not in table.stopped]
    canaries = [canary for model, canary in table.canaries.items() if model not in table.stopped]
    return [*champions, *(served for one in canaries for served in (one.control, one.challenger))]


def _routable(served: ServedVersion, loaded: Mapping[str, Servable], feature_sequence: int) -> Servable | None:
    return loaded.get(served.digest) if served.feature_sequence <= feature_sequence else None


def _canary(
    offered: routes.Canary | None, loaded: Mapping[str, Servable], feature_sequence: int, trying: Trying
) -> Canary | None:
    if offered is None or not trying.watched:
        return None
    challenger = _routable(offered.challenger, loaded, feature_sequence)
    control = _routable(offered.control, loaded, feature_sequence)
    if challenger is None or control is None:
        return None
    return Canary(
        offered.rollout_id,
        offered.step,
        challenger,
        control,
        offered.weight_bps,
        offered.salt,
        offered.per_request,
        trying.attempts[offered.rollout_id],
    )


def _awaits(offered: routes.Canary | None, trying: Trying) -> bool:
    """Whether a canary is not tried only because it is not loaded yet."""
    return (
        offered is not None
        and trying.watched
        and not trying.attempts[offered.rollout_id].give_up
        and trying.failed.isdisjoint((offered.challenger.digest, offered.control.digest))
    )


def _marks(table: RouteTable, served: ServedVersion) -> int:
    """What every reply of the version says of it."""
    return (Mark.UNAPPROVED if served.unapproved else 0) | (
        Mark.STEPPED_BACK if served.model in table.stepped_back else 0
    )


def follows_withdrawals(snapshot: Snapshot, table: RouteTable) -> bool:
    """Whether every model that this gateway stepped back from is answered by the version to which it did."""
    return all(_answers(snapshot, table.champions[model]) for model in table.stepped_back if model not in table.stopped)


def _answers(snapshot: Snapshot, served: ServedVersion) -> bool:
    route = snapshot.routes.get(served.model)
    return route is not None and route.servable.served.digest == served.digest
