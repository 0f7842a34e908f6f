"""Versions and views as values: what decisions are made from. Pure."""

from __future__ import annotations

from typing import NamedTuple

from control.rollout.lifecycle import Stage


class VersionRecord(NamedTuple):
    """What routes, approvals and status need of a version."""

    model: str
    version: int
    stage: Stage
    stage_sequence: int
    digest: str
    model_sha256: str
    golden_sha256: str
    document_json: str
    submitted_by: str
    submitted_at_ns: int
    feature_sequence: int
    champion_sequence: int = 0
    """The audit entry that last made it champion; 0 where none did, or where it was rolled back since."""

    @property
    def subject(self) -> str:
        """Its name in messages and in the audit trail."""
        return f"{self.model}/{self.version}"


class PinnedViewRecord(NamedTuple):
    """A view that a version pins."""

    hash: str
    definition_json: str
