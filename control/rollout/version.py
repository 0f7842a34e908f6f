"""Versions and views as values: what decisions are made from. Pure."""

from __future__ import annotations

from typing import NamedTuple

from control.rollout.lifecycle import Stage
from gateway.contract.document import ModelDocument, document_from_json


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

    @property
    def document(self) -> ModelDocument:
        """Its document."""
        return document_from_json(self.document_json)


class PinnedViewRecord(NamedTuple):
    """A view that a version pins."""

    hash: str
    definition_json: str


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
    """The revision by which it last became champion; 0 where it never was."""


def served(record: VersionRecord, unapproved: bool = False) -> ServedVersion:
    """What a gateway needs of a version."""
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


def is_former(record: VersionRecord) -> bool:
    """Whether a version was champion, may be again without a new approval, and is not now."""
    return record.champion_sequence > 0 and record.stage in (Stage.STANDBY, Stage.APPROVED)
