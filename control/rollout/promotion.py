"""What promotion and retirement do to versions: what must hold, and which moves follow. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from control.rollout.lifecycle import Event, Stage, advance
from control.rollout.version import VersionRecord, is_former
from gateway.contract.document import document_from_json
from gateway.contract.errors import Fault, Reason

PINNED_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a version stays after a caller named it."""


def time_text(time_ns: int) -> str:
    """A moment as messages name it, UTC to the second."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def check_promotable(record: VersionRecord, approved_by: Sequence[str], newest: Mapping[str, int]) -> int:
    """Returns the feature batch that the version waits for, or raises a fault that says what is missing.

    `newest` is the newest batch of each view that was materialized, by its hash.
    """
    if record.stage in (Stage.REGISTERED, Stage.ROLLED_BACK, Stage.QUARANTINED) or not approved_by:
        raise Fault(
            Reason.APPROVAL_MISSING,
            f"{record.subject} ({record.stage}) has no {'new ' if approved_by else ''}approval of its digest "
            f"{record.digest[:12]}; "
            f"`interlock approval approve {record.subject}` gives one, by somebody else than {record.submitted_by}",
        )
    views = document_from_json(record.document_json).views
    if empty := sorted(name for name, view_hash in views.items() if view_hash not in newest):
        raise Fault(
            Reason.VIEW_EMPTY,
            f"{record.subject} takes features of {', '.join(empty)}, of which no rows were materialized; "
            f"`interlock features materialize {empty[0]}` fills it",
            view=empty[0],
        )
    return max((newest[view_hash] for view_hash in views.values()), default=0)


def promotion_moves(record: VersionRecord, holders: Sequence[VersionRecord]) -> list[VersionRecord]:
    """The versions of the model as they become, in an order in which no two ever hold one place.

    `holders` are the champion and the standby, where there are any. The standby steps down first, even where it is the
    one that is promoted; then the champion becomes the standby.
    """
    advance(record.stage, Event.PROMOTE, record.subject)  # as it is now, before any other steps down
    first_standby = sorted(holders, key=lambda holder: holder.stage is Stage.CHAMPION)
    moves = [moved(holder, Event.SUPERSEDE) for holder in first_standby]
    stepped_down = next((move for move in moves if move.version == record.version), record)
    return [*moves, moved(stepped_down, Event.PROMOTE)]


def rollback_target(model: str, known: Sequence[VersionRecord], to_version: int) -> VersionRecord:
    """The version to step back to: the one that is named, else the champion before; a fault where there is none.

    `known` are the versions of the model that are or were champion.
    """
    former = sorted((record for record in known if is_former(record)), key=lambda record: -record.champion_sequence)
    chosen = next((record for record in former if to_version in (0, record.version)), None)
    if chosen is not None:
        return chosen
    able = ", ".join(str(record.version) for record in former)
    wish = (
        f"version {to_version} was never its champion, or needs a new approval" if to_version else "none was before it"
    )
    instead = f"`interlock model stop {model}` has nobody answer, `interlock rollout start` tries another version"
    raise Fault(
        Reason.TRANSITION_REFUSED,
        f"{model} cannot be rolled back: {wish}; " + (f"it can go back to {able}" if able else instead),
        model=model,
    )


def rollback_moves(
    champion: VersionRecord, target: VersionRecord, event: Event = Event.ROLL_BACK
) -> list[VersionRecord]:
    """The champion and the one that comes back, as they become, in an order in which no two hold one place.

    What comes back keeps the feature batch it waited for, which every gateway has applied: it answers at once.
    """
    return [moved(champion, event)._replace(champion_sequence=0), moved(target, Event.REINSTATE)]


def retired(record: VersionRecord) -> VersionRecord:
    """The version as it is when it is retired; a fault for the champion, which answers calls."""
    if record.stage is Stage.CHAMPION:
        raise Fault(
            Reason.TRANSITION_REFUSED,
            f"{record.subject} is the champion and answers calls; promote another version first, then retire this one",
            stage=record.stage,
        )
    return moved(record, Event.RETIRE)


def moved(record: VersionRecord, event: Event) -> VersionRecord:
    """The version as an event makes it; a fault where its stage does not allow it."""
    return record._replace(stage=advance(record.stage, event, record.subject))


def check_unpinned(record: VersionRecord, last_ns: int, gateways: Sequence[str], now_ns: int) -> None:
    """Raises a fault where callers named the version so lately that it must stay."""
    if not last_ns or last_ns + PINNED_NS <= now_ns:
        return
    last, possible = (time_text(at) for at in (last_ns, last_ns + PINNED_NS))
    raise Fault(
        Reason.VERSION_PINNED,
        f"callers asked for exactly {record.subject} at gateway {', '.join(gateways)}, the last time at {last}; it can "
        f"be retired from {possible} on if nobody asks for it any more: have them leave the version at 0",
        last_pinned_ns=str(last_ns),
        possible_ns=str(last_ns + PINNED_NS),
    )
