"""A model's story, told from its audit trail. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from control.cli.output import moment

VERBS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "version.register": "{actor} registered {subject}",
        "version.refuse": "{subject}, sent by {actor}, was refused",
        "version.approve": "{actor} approved {subject}, submitted by {submitted_by}",
        "version.reject": "{actor} rejected {subject}, submitted by {submitted_by}",
        "version.promote": "{actor} made {subject} the one that answers",
        "version.roll_back": "{actor} rolled {subject} back: version {to_version} answers",
        "version.try": "{actor} put {subject} on trial, unapproved",
        "version.end_trial": "the trial of {subject} ended: {why}",
        "version.retire": "{actor} retired {subject}",
        "version.step_back": "{by} had gateway {gateway_id} step back from {subject} at {when}",
        "model.stop": "{actor} stopped {subject}: version {version} answers nobody",
        "model.start": "{actor} started {subject} again: version {version} answers",
    }
)
"""A sentence for each kind of entry, in the words of its facts."""


def sentence(actor: str, action: str, subject: str, details_json: str) -> str:
    """What an entry of the trail says, as one would tell it; an entry of another kind is named as it is."""
    details: dict[str, Any] = json.loads(details_json or "{}")
    try:
        told = VERBS[action].format(**(details | _withdrawn(details) | {"actor": actor, "subject": subject}))
    except KeyError:
        told = f"{actor}: {action} {subject}"
    instead = ", ".join(map(str, details.get("instead_of") or ()))
    why = details.get("comment") or details.get("reason")
    return told + (f", instead of version {instead}" if instead else "") + (f": “{why}”" if why else "")


def _withdrawn(details: Mapping[str, Any]) -> dict[str, str]:
    """Who stepped a gateway back, and when: earlier than the entry, and not the one who recorded it."""
    if "time_ns" not in details:
        return {}
    return {"by": details["actor"], "when": moment(details["time_ns"], details["time_ns"] - 1)}
