"""A rollout's entries of the audit trail: asked for, or read from an export."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from control.cli.arguments import read_text
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from control.services import ControlPlane
    from control.v1 import rollout_pb2

PAGE: Final = 1000
"""Entries of the trail that are asked for at once."""


class Entry(NamedTuple):
    """An entry of the trail, as far as it is needed here."""

    sequence: int
    time_ns: int
    action: str
    subject: str
    facts: Mapping[str, Any]


def asked(control: ControlPlane, model: str, rollout_id: int) -> Iterator[Entry]:
    """The model's entries from the rollout's start on, the newest first."""
    before = 0
    while found := control.audit(model, PAGE, before):
        for one in found:
            yield Entry(one.sequence, one.time_ns, one.action, one.subject, json.loads(one.details_json or "{}"))
        before = found[-1].sequence
        if before <= rollout_id or before == 1:
            return


def exported(path: Path) -> list[Entry]:
    """The entries of a file that `interlock audit list --json` wrote."""
    try:
        document = json.loads(read_text(path))
        return [
            Entry(one["sequence"], one["time_ns"], one["action"], one["subject"], one["details"] or {})
            for one in document["entries"]
        ]
    except (ValueError, KeyError, TypeError):
        raise Fault(
            Reason.ARGUMENT_INVALID, f"{path} holds no audit trail as `interlock audit list --json` writes it"
        ) from None


def last_findings(control: ControlPlane, rollout: rollout_pb2.Rollout) -> list[rollout_pb2.Finding]:
    """The tests of the last judgement in the trail: what a control plane that was started since does not remember."""
    from control.v1 import rollout_pb2

    for entry in asked(control, f"{rollout.model}/{rollout.challenger}", rollout.rollout_id):
        if entry.facts.get("rollout_id") == rollout.rollout_id and "judgement" in entry.facts:
            return [
                rollout_pb2.Finding(challenger=one["counts"][0], control=one["counts"][1], **_without_counts(one))
                for one in entry.facts["judgement"]["findings"]
            ]
    return []


def _without_counts(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in finding.items() if name != "counts"}
