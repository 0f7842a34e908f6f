"""Stepping back alone: versions that this gateway has withdrawn, and the route table without them. Pure.

A withdrawn version does not answer here, whatever the route table says, until the control plane has recorded the
withdrawal and sent a table that takes it into account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from gateway.contract.errors import Fault, Reason
from gateway.wire.routes import RouteTable, ServedVersion


class Kind(StrEnum):
    """What led to a withdrawal."""

    MANUAL = "manual"
    """A person on this host."""
    GUARD = "guard"
    """The version failed in a way that needs no statistics."""
    EVIDENCE = "evidence"
    """This gateway's own evidence sufficed."""


class Withdrawal(NamedTuple):
    """A version that does not answer on this gateway, and who decided that."""

    number: int
    """At this gateway; never given twice."""
    model: str
    version: int
    digest: str
    kind: Kind
    actor: str
    reason: str
    time_ns: int
    history_id: str
    revision: int
    """Of the table that was in force then."""
    recorded_by: int = 0
    """The control plane's audit entry; 0 until it acknowledges."""
    counted_from: int = 0
    """Tables from this revision on take the withdrawal into account."""


class Choice(NamedTuple):
    """What stepping back to a former champion takes."""

    answers: ServedVersion
    withdrawn: tuple[ServedVersion, ...]
    """The version that answered, and the former champions that are newer than the one that will."""


def effective(table: RouteTable, withdrawals: Iterable[Withdrawal]) -> RouteTable:
    """The table as this gateway follows it: the newest former champion answers in a withdrawn champion's place.

    A canary whose challenger, or what it is compared with, is withdrawn is over here; a model of which every version is
    withdrawn is stopped.
    """
    withdrawn = {(one.model, one.digest) for one in withdrawals}
    champions, kept, stopped = dict(table.champions), dict(table.kept), dict(table.stopped)
    stepped_back = set()
    for model, champion in table.champions.items():
        left = tuple(former for former in table.kept.get(model, ()) if (model, former.digest) not in withdrawn)
        if (model, champion.digest) not in withdrawn:
            kept[model] = left
        elif left:
            champions[model], *others = left
            kept[model] = tuple(others)
            stepped_back.add(model)
        else:
            kept[model] = ()
            stopped.setdefault(model, "its versions are withdrawn on this gateway")
    canaries = {
        model: canary
        for model, canary in table.canaries.items()
        if withdrawn.isdisjoint((model, one.digest) for one in (canary.challenger, canary.control))
    }
    return table._replace(
        champions=champions, kept=kept, canaries=canaries, stopped=stopped, stepped_back=frozenset(stepped_back)
    )


def choose(followed: RouteTable, model: str, to_version: int) -> Choice:
    """Which version to step back to in the table that is followed: the named one, or the last champion for 0.

    Raises Fault where the table keeps none such.
    """
    champion = followed.champions.get(model)
    if champion is None:
        raise Fault(Reason.MODEL_UNKNOWN, f"no model {model[:100]!r} is routed here; `interlock status` says which are")
    kept = followed.kept.get(model, ())
    place = next((index for index, former in enumerate(kept) if to_version in (0, former.version)), None)
    if place is None:
        able = ", ".join(str(former.version) for former in kept)
        wish = f"version {to_version} is not kept on this gateway" if to_version else "no former champion is kept here"
        raise Fault(
            Reason.TRANSITION_REFUSED,
            f"{model} cannot step back: {wish}; "
            + (f"it can go back to {able}" if able else f"`interlock model stop {model}` has nobody answer"),
            model=model,
        )
    return Choice(kept[place], (champion, *kept[:place]))


def acknowledged(withdrawals: Iterable[Withdrawal], entries: Mapping[int, tuple[int, int]]) -> tuple[Withdrawal, ...]:
    """The withdrawals with what the control plane says of them, by number: its audit entry, and a revision."""
    return tuple(
        one._replace(recorded_by=entries[one.number][0], counted_from=entries[one.number][1])
        if one.number in entries
        else one
        for one in withdrawals
    )


def settled(withdrawals: Sequence[Withdrawal], table: RouteTable) -> tuple[Withdrawal, ...]:
    """Those that stay in force beside a table of the control plane.

    A recorded one ends with the first table that takes it into account, unless that table still has the version answer
    without having been told anew since: since it was recorded, or since the table by which the version was withdrawn,
    as the control plane judges it.
    """
    return tuple(one for one in withdrawals if not _ends(one, table))


def _ends(one: Withdrawal, table: RouteTable) -> bool:
    if not one.recorded_by or table.revision < one.counted_from:
        return False
    champion, canary = table.champions.get(one.model), table.canaries.get(one.model)
    answering = [] if champion is None else [(champion.digest, champion.champion_revision)]
    if canary is not None and (champion is None or canary.challenger.digest != champion.digest):
        answering.append((canary.challenger.digest, canary.rollout_id))
    told = min(one.revision, one.recorded_by) if one.history_id == table.history_id else one.recorded_by
    return all(digest != one.digest or since > told for digest, since in answering)
