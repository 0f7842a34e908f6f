"""The tables, one per kind of record. What must hold whatever Python does is a constraint here."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA: Final = MetaData()

history: Final = Table(
    "history",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("history_id", Text, nullable=False),
    Column("root_history_id", Text, nullable=False),
    Column("created_at_ns", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    CheckConstraint("id = 1", name="one_history"),
)
"""One row: which history this is, and the head of its audit trail, where numbers are taken.

A restored backup is a history of its own; the trail goes on, and still begins with the hash of `root_history_id`.
"""

audit: Final = Table(
    "audit",
    METADATA,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details_json", Text, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("audit_by_subject", "subject", "sequence"),
)
"""What happened. Triggers of the migration refuse to change or delete an entry."""

models: Final = Table(
    "models",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("created_at_ns", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
)
"""Models, described as their newest version's document describes them."""

artifacts: Final = Table(
    "artifacts",
    METADATA,
    Column("sha256", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at_ns", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
)
"""Artifacts whose bytes are durable in the artifact directory."""

versions: Final = Table(
    "versions",
    METADATA,
    Column("model", Text, ForeignKey("models.name"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("stage", Text, nullable=False),
    Column("stage_sequence", BigInteger, ForeignKey("audit.sequence"), nullable=False),
    Column("digest", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("document_json", Text, nullable=False),
    Column("manifest_json", Text, nullable=False),
    Column("admission_json", Text, nullable=False),
    Column("model_sha256", Text, ForeignKey("artifacts.sha256"), nullable=False),
    Column("golden_sha256", Text, ForeignKey("artifacts.sha256"), nullable=False),
    Column("submitted_by", Text, nullable=False),
    Column("submitted_at_ns", BigInteger, nullable=False),
    Column("feature_sequence", BigInteger, nullable=False, server_default=text("0")),
    Column("champion_sequence", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("model", "version", "digest", "submitted_by", name="what_approvals_refer_to"),
    Index("one_champion", "model", unique=True, sqlite_where=text("stage = 'champion'")),
    Index("one_standby", "model", unique=True, sqlite_where=text("stage = 'standby'")),
)
"""Versions: what they are (never changed), and their stage with the audit entry that set it.

Triggers of the migration let none begin but as registered, change its content, or come into traffic without an
approval of its digest.

`feature_sequence` is the newest batch of the pinned views when the version was last promoted, `champion_sequence` the
audit entry that last made it champion: 0 where none did, or where it was rolled back since.
"""

trials: Final = Table(
    "trials",
    METADATA,
    Column("model", Text, ForeignKey("models.name"), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("sequence", BigInteger, ForeignKey("audit.sequence"), nullable=False),
)
"""The version of a model that answers on trial, unapproved: 0 for none any more, since the audit entry `sequence`.

Apart from the stages on purpose: what is on trial is where it was, and every rule of the stages holds for it.
"""

stops: Final = Table(
    "stops",
    METADATA,
    Column("model", Text, ForeignKey("models.name"), primary_key=True),
    Column("stopped", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("sequence", BigInteger, ForeignKey("audit.sequence"), nullable=False),
)
"""Whether a model is stopped, since the audit entry `sequence`; models that never were have no row."""

gateways: Final = Table(
    "gateways",
    METADATA,
    Column("gateway_id", Text, primary_key=True),
    Column("seen_ns", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
"""When a connection of each gateway was last begun or ended, and the revision that it had in force."""

step_backs: Final = Table(
    "step_backs",
    METADATA,
    Column("gateway_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, ForeignKey("audit.sequence"), nullable=False),
    Column("revision", BigInteger, nullable=False),
)
"""Step backs of gateways: the audit entry that records each, and the revision from which on tables heed it."""

pins: Final = Table(
    "pins",
    METADATA,
    Column("gateway_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("last_ns", BigInteger, nullable=False),
)
"""When callers of a gateway last named a version, to the minute."""

approvals: Final = Table(
    "approvals",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("decided_by", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("submitted_by", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("decided_at_ns", BigInteger, nullable=False),
    Column("comment", Text, nullable=False),
    # In the key: a version that was rolled back may be approved again, also by the one who approved it before.
    Column("sequence", BigInteger, ForeignKey("audit.sequence"), primary_key=True, autoincrement=False),
    # Together: an approval is of exactly the registered digest, and not by the one who submitted it.
    ForeignKeyConstraint(
        ("model", "version", "digest", "submitted_by"),
        ("versions.model", "versions.version", "versions.digest", "versions.submitted_by"),
    ),
    CheckConstraint("lower(decided_by) <> lower(submitted_by)", name="two_people"),
    CheckConstraint("decision IN ('approved', 'rejected')", name="decisions"),
)
"""Decisions on versions. Triggers of the migration refuse to change or delete one."""

feature_views: Final = Table(
    "feature_views",
    METADATA,
    Column("hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("definition_json", Text, nullable=False),
    Column("applied_at_ns", BigInteger, nullable=False),
    Column("applied_by", Text, nullable=False),
    Column("sequence", BigInteger, ForeignKey("audit.sequence"), nullable=False),
    Index("feature_views_by_name", "name", "sequence"),
)
"""View definitions by their hash."""

feature_batches: Final = Table(
    "feature_batches",
    METADATA,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("view_hash", Text, ForeignKey("feature_views.hash"), nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("additions_json", Text, nullable=False),
    Column("keys_json", Text, nullable=False),
    Column("rows", LargeBinary, nullable=False),
    Column("appended_at_ns", BigInteger, nullable=False),
    Index("feature_batches_by_view", "view_hash", "sequence"),
)
"""The feature log: batches numbered from 1 without gaps."""

dictionaries: Final = Table(
    "dictionaries",
    METADATA,
    Column("view_hash", Text, ForeignKey("feature_views.hash"), primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("code", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Text, nullable=False),
    UniqueConstraint("view_hash", "feature", "value", name="one_code_per_value"),
)
"""The code that each string of a feature has in its rows."""

tokens: Final = Table(
    "tokens",
    METADATA,
    Column("token_id", Text, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("roles_json", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False, unique=True),
    Column("created_at_ns", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at_ns", BigInteger, nullable=False),
    Column("revoked_at_ns", BigInteger),
)
"""Bearer tokens, by the hash of their secret."""

idempotency: Final = Table(
    "idempotency",
    METADATA,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("method", Text, nullable=False),
    Column("request_sha256", Text, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("created_at_ns", BigInteger, nullable=False),
)
"""Answers given to changes, by caller and idempotency key."""

rollouts: Final = Table(
    "rollouts",
    METADATA,
    Column("rollout_id", BigInteger, ForeignKey("audit.sequence"), primary_key=True, autoincrement=False),
    Column("model", Text, ForeignKey("models.name"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("challenger", BigInteger, nullable=False),
    Column("challenger_digest", Text, nullable=False),
    Column("control", BigInteger, nullable=False),
    Column("control_digest", Text, nullable=False),
    Column("policy_json", Text, nullable=False),
    Column("salt", Text, nullable=False),
    Column("started_by", Text, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("phase", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("weight_bps", BigInteger, nullable=False),
    Column("phase_since_ns", BigInteger, nullable=False),
    Column("step_since_ns", BigInteger, nullable=False),
    Column("sequence", BigInteger, ForeignKey("audit.sequence"), nullable=False),
    Column("judges_json", Text, nullable=False),
    Column("score_edges_json", Text, nullable=False),
    Column("paused_ns", BigInteger, nullable=False),
    Column("without_evidence", Boolean, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("ended_ns", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(("model", "challenger"), ("versions.model", "versions.version")),
    ForeignKeyConstraint(("model", "control"), ("versions.model", "versions.version")),
    CheckConstraint("challenger <> control", name="two_versions"),
    Index("one_rollout", "model", unique=True, sqlite_where=text("kind = 'rollout' AND outcome = ''")),
    Index("one_shadow", "model", "challenger", unique=True, sqlite_where=text("outcome = ''")),
)
"""Rollouts: the promise, which triggers of the migration keep as it was made, and where each stands."""

evidence_units: Final = Table(
    "evidence_units",
    METADATA,
    Column("rollout_id", BigInteger, ForeignKey("rollouts.rollout_id"), primary_key=True, autoincrement=False),
    Column("kind", Integer, primary_key=True, autoincrement=False),
    Column("metric", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("unit", Text, primary_key=True),
    Column("challenger", Boolean, nullable=False),
    Column("weight_bps", Integer, nullable=False),
    Column("bad", Integer, nullable=False),
    Column("score_bin", Integer, nullable=False),
)
"""What counts once: an entity's first bad event by a metric in the rollout, and its first scored row in a step.

The first one over all gateways is kept. Judgements keep what they counted in the audit trail, so these rows need none.
"""

evidence_heads: Final = Table(
    "evidence_heads",
    METADATA,
    Column("rollout_id", BigInteger, ForeignKey("rollouts.rollout_id"), primary_key=True, autoincrement=False),
    Column("gateway_id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("rows_lost", BigInteger, nullable=False),
    Column("rows_lost_before", BigInteger, nullable=False),
    Column("step", Integer, nullable=False),
    Column("shadow_json", Text, nullable=False),
    Column("received_ns", BigInteger, nullable=False),
)
"""How much of each gateway's count is kept. `rows_lost_before` were lost before the step that `step` names."""
