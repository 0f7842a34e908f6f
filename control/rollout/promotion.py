"""What promotion and retirement do to versions: what must hold, and which moves follow. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from control.rollout.lifecycle import Event, Stage, advance
from control.rollout.version import VersionRecord
from gateway.contract.document import document_from_json
from gateway.contract.errors import Fault, Reason


def check_promotable(record: VersionRecord, approved_by: Sequence[str], newest: Mapping[str, int]) -> int:
    """Returns the feature batch that the version waits for, or raises a fault that says what is missing.

    `newest` is the newest batch of each view that was materialized, by its hash.
    """
    if record.stage is Stage.REGISTERED or not approved_by:
        raise Fault(
            Reason.APPROVAL_MISSING,
            f"{record.subject} ({record.stage}) has no approval of its digest {record.digest[:12]}; "
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
    moves = [_moved(holder, Event.SUPERSEDE) for holder in first_standby]
    stepped_down = next((move for move in moves if move.version == record.version), record)
    return [*moves, _moved(stepped_down, Event.PROMOTE)]


def retired(record: VersionRecord) -> VersionRecord:
    """The version as it is when it is retired; a fault for the champion, which answers calls."""
    if record.stage is Stage.CHAMPION:
        raise Fault(
            Reason.TRANSITION_REFUSED,
            f"{record.subject} is the champion and answers calls; promote another version first, then retire this one",
            stage=record.stage,
        )
    return _moved(record, Event.RETIRE)


def _moved(record: VersionRecord, event: Event) -> VersionRecord:
    return record._replace(stage=advance(record.stage, event, record.subject))
