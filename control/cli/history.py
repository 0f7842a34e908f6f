"""A model's story, told from its audit trail. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from control.cli.output import moment
from control.cli.rollout_lines import percent

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
        "version.step_back": "{stepped} back from {subject} at {when}",
        "rollout.start": "{actor} started a rollout of {subject} against version {control}, in {phase}",
        "rollout.advance": "{subject} goes on, {stands}: {sentence}",
        "rollout.hold": "{subject} holds: {sentence}",
        "rollout.roll_back": "{who} ended the rollout of {subject} against it",
        "rollout.quarantine": "{who} quarantined {subject}",
        "rollout.promote_without_evidence": "{actor} promoted {subject} without evidence",
        "rollout.supersede": "the holdback of {subject} ended, because {by} was started",
        "rollout.pause": "{actor} paused the rollout of {subject}",
        "rollout.resume": "{actor} had the rollout of {subject} go on",
        "rollout.give_slot": "gateway {gateway_id} may judge {subject} alone, by slot {slot}",
        "model.stop": "{actor} stopped {subject}: version {version} answers nobody",
        "model.start": "{actor} started {subject} again: version {version} answers",
    }
)
"""A sentence for each kind of entry, in the words of its facts."""


def sentence(actor: str, action: str, subject: str, details_json: str) -> str:
    """What an entry of the trail says, as one would tell it; an entry of another kind is named as it is."""
    details: dict[str, Any] = json.loads(details_json or "{}")
    try:
        told = VERBS[action].format(
            **(details | _withdrawn(details) | _judged(actor, details) | {"actor": actor, "subject": subject})
        )
    except KeyError:
        told = f"{actor}: {action} {subject}"
    instead = ", ".join(map(str, details.get("instead_of") or ()))
    why = details.get("comment") or details.get("reason")
    return told + (f", instead of version {instead}" if instead else "") + (f": “{why}”" if why else "")


def _withdrawn(details: Mapping[str, Any]) -> dict[str, str]:
    """Who stepped a gateway back, and when: earlier than the entry, and not the one who recorded it."""
    if "time_ns" not in details or "actor" not in details:
        return {}
    actor, gateway = details["actor"], f"gateway {details['gateway_id']}"
    stepped = f"{gateway} alone stepped" if actor == "gateway" else f"{actor} had {gateway} step"
    return {"stepped": stepped, "when": moment(details["time_ns"], details["time_ns"] - 1)}


def _judged(actor: str, details: Mapping[str, Any]) -> dict[str, str]:
    """Where a rollout stands since, what was judged, and who moved it."""
    judgement = details.get("judgement") or {}
    stands = {"canary": f"canary at {percent(details.get('weight_bps', 0))}", "holdback": "promoted"}
    return {
        "stands": "to its end" if details.get("outcome") else stands.get(str(details.get("phase")), ""),
        "sentence": str(details.get("sentence") or judgement.get("sentence", "")),
        "who": f"gateway {details['gateway_id']}" if details.get("by") == "gateway" else actor,
    }
