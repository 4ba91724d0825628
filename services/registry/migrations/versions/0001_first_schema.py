"""First schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NAME = sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "alias_changes",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("from_version", sa.BigInteger(), nullable=False),
        sa.Column("to_version", sa.BigInteger(), nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_alias_changes")),
    )
    op.create_index("ix_alias_changes_alias", "alias_changes", ["model", "alias", "revision"])
    op.create_index("ix_alias_changes_model", "alias_changes", ["model", "revision"])
    op.create_table(
        "blob_touches",
        sa.Column("sha256", NAME, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blob_touches")),
    )
    op.create_table(
        "counter",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counter")),
    )
    op.execute("INSERT INTO counter (id, revision) VALUES (1, 0)")
    op.create_table(
        "events",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_events")),
    )
    op.create_index("ix_events_model", "events", ["model", "revision"])
    op.create_table(
        "experiments",
        sa.Column("public_id", NAME, nullable=False),
        sa.Column("fence_key", NAME, nullable=True),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("family", NAME, nullable=False),
        sa.Column("architecture", NAME, nullable=False),
        sa.Column("model_config", TEXT, nullable=False),
        sa.Column("hyperparameters", TEXT, nullable=False),
        sa.Column("git_commit", NAME, nullable=False),
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("error", TEXT, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("finish_time", sa.BigInteger(), nullable=True),
        sa.Column("id", ROW_ID, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("fence_key", name=op.f("uq_experiments_fence_key")),
        sa.UniqueConstraint("public_id", name=op.f("uq_experiments_public_id")),
    )
    op.create_index("ix_experiments_architecture", "experiments", ["architecture", "id"])
    op.create_index("ix_experiments_create_time", "experiments", ["create_time", "id"])
    op.create_index("ix_experiments_family", "experiments", ["family", "id"])
    op.create_index("ix_experiments_job", "experiments", ["job_id", "id"])
    op.create_index("ix_experiments_model", "experiments", ["model", "id"])
    op.create_index("ix_experiments_name", "experiments", ["name", "id"])
    op.create_index("ix_experiments_state", "experiments", ["state", "id"])
    op.create_table(
        "fences",
        sa.Column("key", NAME, nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_fences")),
    )
    op.create_table(
        "models",
        sa.Column("name", NAME, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("latest_version", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("id", ROW_ID, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )
    op.create_index("ix_models_create_time", "models", ["create_time", "id"])
    op.create_index("ix_models_latest_version", "models", ["latest_version", "id"])
    op.create_table(
        "epochs",
        sa.Column("experiment_id", ROW_ID, nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_epochs_experiment_id")),
        sa.PrimaryKeyConstraint("experiment_id", "epoch", name=op.f("pk_epochs")),
    )
    op.create_table(
        "experiment_metrics",
        sa.Column("owner_id", ROW_ID, nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["experiments.id"], name=op.f("fk_experiment_metrics_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "name", name=op.f("pk_experiment_metrics")),
    )
    op.create_index("ix_experiment_metrics_value", "experiment_metrics", ["name", "value", "owner_id"])
    op.create_table(
        "model_tags",
        sa.Column("owner_id", ROW_ID, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["models.id"], name=op.f("fk_model_tags_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "name", name=op.f("pk_model_tags")),
    )
    op.create_index("ix_model_tags_value", "model_tags", ["name", "value", "owner_id"])
    op.create_table(
        "versions",
        sa.Column("model", NAME, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("family", NAME, nullable=False),
        sa.Column("architecture", NAME, nullable=False),
        sa.Column("experiment_id", NAME, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", NAME, nullable=True),
        sa.Column("id", ROW_ID, nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_versions_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("model", "idempotency_key", name=op.f("uq_versions_model_idempotency_key")),
        sa.UniqueConstraint("model", "number", name=op.f("uq_versions_model_number")),
    )
    op.create_index("ix_versions_architecture", "versions", ["architecture", "id"])
    op.create_index("ix_versions_create_time", "versions", ["create_time", "id"])
    op.create_index("ix_versions_experiment", "versions", ["experiment_id", "id"])
    op.create_index("ix_versions_family", "versions", ["family", "id"])
    op.create_index("ix_versions_number", "versions", ["number", "id"])
    op.create_index("ix_versions_size", "versions", ["size_bytes", "id"])
    op.create_table(
        "aliases",
        sa.Column("model_id", ROW_ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("version_id", ROW_ID, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_aliases_model_id")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_aliases_version_id")),
        sa.PrimaryKeyConstraint("model_id", "name", name=op.f("pk_aliases")),
    )
    op.create_index(op.f("ix_aliases_version_id"), "aliases", ["version_id"])
    op.create_table(
        "leases",
        sa.Column("id", NAME, nullable=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("version_id", ROW_ID, nullable=True),
        sa.Column("sha256", NAME, nullable=True),
        sa.Column("expire_time", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_leases_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_expire_time"), "leases", ["expire_time"])
    op.create_index(op.f("ix_leases_sha256"), "leases", ["sha256"])
    op.create_index(op.f("ix_leases_version_id"), "leases", ["version_id"])
    op.create_table(
        "version_files",
        sa.Column("version_id", ROW_ID, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("sha256", NAME, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_version_files_version_id")),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_version_files")),
    )
    op.create_index(op.f("ix_version_files_sha256"), "version_files", ["sha256"])
    op.create_table(
        "version_metrics",
        sa.Column("owner_id", ROW_ID, nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["versions.id"], name=op.f("fk_version_metrics_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "name", name=op.f("pk_version_metrics")),
    )
    op.create_index("ix_version_metrics_value", "version_metrics", ["name", "value", "owner_id"])
    op.create_table(
        "version_tags",
        sa.Column("owner_id", ROW_ID, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["versions.id"], name=op.f("fk_version_tags_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "name", name=op.f("pk_version_tags")),
    )
    op.create_index("ix_version_tags_value", "version_tags", ["name", "value", "owner_id"])
