"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "families",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("worker", sa.String(length=256), nullable=False),
        sa.Column("seen_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "jobs",
        sa.Column("row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=256), nullable=False),
        sa.Column("idempotency_key", sa.String(length=256), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("family", sa.String(length=256), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("experiment_id", sa.String(length=256), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=True),
        sa.Column("finish_time", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("trace", sa.JSON(), nullable=False),
        sa.Column("entry_id", sa.String(length=64), nullable=True),
        sa.Column("dispatch_time", sa.BigInteger(), nullable=False),
        sa.Column("dead_letter_due", sa.Boolean(), nullable=False),
        sa.Column("experiment_due", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("row"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("ix_jobs_dead_letter_due", "jobs", ["dead_letter_due"], unique=False)
    op.create_index("ix_jobs_entry_id", "jobs", ["entry_id"], unique=False)
    op.create_index("ix_jobs_experiment_due", "jobs", ["experiment_due"], unique=False)
    op.create_index("ix_jobs_model", "jobs", ["model", "row"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state", "row"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.String(length=256), nullable=False),
        sa.Column("delivery_count", sa.BigInteger(), nullable=False),
        sa.Column("resumed_from_epoch", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("finish_time", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job"],
            ["jobs.row"],
        ),
        sa.PrimaryKeyConstraint("row"),
        sa.UniqueConstraint("job", "number"),
    )
