"""The first tables, and the triggers that hold whatever a program does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TRIGGERS = (
    """
    CREATE TRIGGER audit_keeps_entries BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit entries are never deleted'); END
    """,
    """
    CREATE TRIGGER audit_keeps_content BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit entries are never changed'); END
    """,
    """
    CREATE TRIGGER approvals_keep_entries BEFORE DELETE ON approvals
    BEGIN SELECT RAISE(ABORT, 'decisions are never deleted'); END
    """,
    """
    CREATE TRIGGER approvals_keep_content BEFORE UPDATE ON approvals
    BEGIN SELECT RAISE(ABORT, 'decisions are never changed'); END
    """,
    """
    CREATE TRIGGER versions_begin_registered BEFORE INSERT ON versions WHEN NEW.stage <> 'registered'
    BEGIN SELECT RAISE(ABORT, 'a version begins as registered'); END
    """,
    """
    CREATE TRIGGER versions_keep_content BEFORE UPDATE OF
        model, version, digest, task, document_json, manifest_json, admission_json, model_sha256, golden_sha256,
        submitted_by, submitted_at_ns
    ON versions
    BEGIN SELECT RAISE(ABORT, 'what a version is made of is never changed'); END
    """,
    """
    CREATE TRIGGER traffic_needs_approval BEFORE UPDATE OF stage ON versions
    WHEN NEW.stage IN ('shadow', 'canary', 'champion') AND NOT EXISTS (
        SELECT 1 FROM approvals
        WHERE model = NEW.model AND version = NEW.version AND digest = NEW.digest AND decision = 'approved'
    )
    BEGIN SELECT RAISE(ABORT, 'no approval of this digest'); END
    """,
    """
    CREATE TRIGGER rolled_back_needs_new_approval BEFORE UPDATE OF stage ON versions
    WHEN OLD.stage IN ('rolled_back', 'quarantined') AND NEW.stage <> 'retired' AND NOT (
        NEW.stage = 'approved' AND EXISTS (
            SELECT 1 FROM approvals
            WHERE model = NEW.model AND version = NEW.version AND digest = NEW.digest AND decision = 'approved'
            AND sequence = NEW.stage_sequence AND sequence > OLD.stage_sequence
        )
    )
    BEGIN SELECT RAISE(ABORT, 'rolled back since its approval'); END
    """,
    """
    CREATE TRIGGER rollouts_keep_promises BEFORE UPDATE OF
        rollout_id, model, kind, challenger, challenger_digest, control, control_digest, policy_json, salt, started_by,
        started_ns
    ON rollouts
    BEGIN SELECT RAISE(ABORT, 'what a rollout promised is never changed'); END
    """,
    """
    CREATE TRIGGER ended_rollouts_stay_ended BEFORE UPDATE ON rollouts WHEN OLD.outcome <> ''
    BEGIN SELECT RAISE(ABORT, 'a rollout that ended does not go on'); END
    """,
)


def upgrade() -> None:
    """Creates them."""
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details_json", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index("audit_by_subject", "audit", ["subject", "sequence"], unique=False)
    op.create_table(
        "history",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("history_id", sa.Text(), nullable=False),
        sa.Column("root_history_id", sa.Text(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name="one_history"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "idempotency",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "key"),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("roles_json", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ns", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("token_id"),
        sa.UniqueConstraint("secret_sha256"),
    )
    op.create_table(
        "feature_views",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition_json", sa.Text(), nullable=False),
        sa.Column("applied_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("applied_by", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sequence"],
            ["audit.sequence"],
        ),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("feature_views_by_name", "feature_views", ["name", "sequence"], unique=False)
    op.create_table(
        "versions",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("stage_sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("document_json", sa.Text(), nullable=False),
        sa.Column("manifest_json", sa.Text(), nullable=False),
        sa.Column("admission_json", sa.Text(), nullable=False),
        sa.Column("model_sha256", sa.Text(), nullable=False),
        sa.Column("golden_sha256", sa.Text(), nullable=False),
        sa.Column("submitted_by", sa.Text(), nullable=False),
        sa.Column("submitted_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("feature_sequence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("champion_sequence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["golden_sha256"],
            ["artifacts.sha256"],
        ),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.ForeignKeyConstraint(
            ["model_sha256"],
            ["artifacts.sha256"],
        ),
        sa.ForeignKeyConstraint(
            ["stage_sequence"],
            ["audit.sequence"],
        ),
        sa.PrimaryKeyConstraint("model", "version"),
        sa.UniqueConstraint("model", "version", "digest", "submitted_by", name="what_approvals_refer_to"),
    )
    op.create_index("one_champion", "versions", ["model"], unique=True, sqlite_where=sa.text("stage = 'champion'"))
    op.create_index("one_standby", "versions", ["model"], unique=True, sqlite_where=sa.text("stage = 'standby'"))
    op.create_table(
        "trials",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.ForeignKeyConstraint(
            ["sequence"],
            ["audit.sequence"],
        ),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "stops",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"]),
        sa.ForeignKeyConstraint(["sequence"], ["audit.sequence"]),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "gateways",
        sa.Column("gateway_id", sa.Text(), nullable=False),
        sa.Column("seen_ns", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway_id"),
    )
    op.create_table(
        "step_backs",
        sa.Column("gateway_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["sequence"], ["audit.sequence"]),
        sa.PrimaryKeyConstraint("gateway_id", "number"),
    )
    op.create_table(
        "pins",
        sa.Column("gateway_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway_id", "model", "version"),
    )
    op.create_table(
        "approvals",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("submitted_by", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("decided_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.CheckConstraint("decision IN ('approved', 'rejected')", name="decisions"),
        sa.CheckConstraint("lower(decided_by) <> lower(submitted_by)", name="two_people"),
        sa.ForeignKeyConstraint(
            ["model", "version", "digest", "submitted_by"],
            ["versions.model", "versions.version", "versions.digest", "versions.submitted_by"],
        ),
        sa.ForeignKeyConstraint(
            ["sequence"],
            ["audit.sequence"],
        ),
        sa.PrimaryKeyConstraint("model", "version", "decided_by", "sequence"),
    )
    op.create_table(
        "dictionaries",
        sa.Column("view_hash", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("code", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["view_hash"],
            ["feature_views.hash"],
        ),
        sa.PrimaryKeyConstraint("view_hash", "feature", "code"),
        sa.UniqueConstraint("view_hash", "feature", "value", name="one_code_per_value"),
    )
    op.create_table(
        "feature_batches",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("view_hash", sa.Text(), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("additions_json", sa.Text(), nullable=False),
        sa.Column("keys_json", sa.Text(), nullable=False),
        sa.Column("rows", sa.LargeBinary(), nullable=False),
        sa.Column("appended_at_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["view_hash"],
            ["feature_views.hash"],
        ),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index("feature_batches_by_view", "feature_batches", ["view_hash", "sequence"], unique=False)
    op.create_table(
        "rollouts",
        sa.Column("rollout_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("challenger", sa.BigInteger(), nullable=False),
        sa.Column("challenger_digest", sa.Text(), nullable=False),
        sa.Column("control", sa.BigInteger(), nullable=False),
        sa.Column("control_digest", sa.Text(), nullable=False),
        sa.Column("policy_json", sa.Text(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("started_ns", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("weight_bps", sa.BigInteger(), nullable=False),
        sa.Column("phase_since_ns", sa.BigInteger(), nullable=False),
        sa.Column("step_since_ns", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("judges_json", sa.Text(), nullable=False),
        sa.Column("score_edges_json", sa.Text(), nullable=False),
        sa.Column("paused_ns", sa.BigInteger(), nullable=False),
        sa.Column("without_evidence", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("ended_ns", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("challenger <> control", name="two_versions"),
        sa.ForeignKeyConstraint(["model"], ["models.name"]),
        sa.ForeignKeyConstraint(["model", "challenger"], ["versions.model", "versions.version"]),
        sa.ForeignKeyConstraint(["model", "control"], ["versions.model", "versions.version"]),
        sa.ForeignKeyConstraint(["rollout_id"], ["audit.sequence"]),
        sa.ForeignKeyConstraint(["sequence"], ["audit.sequence"]),
        sa.PrimaryKeyConstraint("rollout_id"),
    )
    op.create_index(
        "one_rollout", "rollouts", ["model"], unique=True, sqlite_where=sa.text("kind = 'rollout' AND outcome = ''")
    )
    op.create_index(
        "one_shadow", "rollouts", ["model", "challenger"], unique=True, sqlite_where=sa.text("outcome = ''")
    )
    op.create_table(
        "evidence_units",
        sa.Column("rollout_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("challenger", sa.Boolean(), nullable=False),
        sa.Column("weight_bps", sa.Integer(), nullable=False),
        sa.Column("bad", sa.Integer(), nullable=False),
        sa.Column("score_bin", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.rollout_id"]),
        sa.PrimaryKeyConstraint("rollout_id", "kind", "metric", "step", "unit"),
    )
    op.create_table(
        "evidence_heads",
        sa.Column("rollout_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("gateway_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("rows_lost", sa.BigInteger(), nullable=False),
        sa.Column("rows_lost_before", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("shadow_json", sa.Text(), nullable=False),
        sa.Column("received_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.rollout_id"]),
        sa.PrimaryKeyConstraint("rollout_id", "gateway_id"),
    )
    for trigger in TRIGGERS:
        op.execute(trigger)
