"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "inferences",
        sa.Column("row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=256), nullable=False),
        sa.Column("idempotency_key", sa.String(length=256), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("sticky_key", sa.String(length=256), nullable=False),
        sa.Column("wanted_runtime", sa.String(length=256), nullable=False),
        sa.Column("inputs_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("rows_done", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("runtime", sa.String(length=256), nullable=False),
        sa.Column("result_sha256", sa.String(length=64), nullable=True),
        sa.Column("result_size", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=True),
        sa.Column("finish_time", sa.BigInteger(), nullable=True),
        sa.Column("expire_time", sa.BigInteger(), nullable=False),
        sa.Column("result_expire_time", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("postponed", sa.Integer(), nullable=False),
        sa.Column("trace", sa.JSON(), nullable=False),
        sa.Column("entry_id", sa.String(length=64), nullable=True),
        sa.Column("dispatch_time", sa.BigInteger(), nullable=False),
        sa.Column("dead_letter_due", sa.Boolean(), nullable=False),
        sa.Column("inputs_held", sa.Boolean(), nullable=False),
        sa.Column("result_due", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("row"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("ix_inferences_dead_letter_due", "inferences", ["dead_letter_due"], unique=False)
    op.create_index("ix_inferences_entry_id", "inferences", ["entry_id"], unique=False)
    op.create_index("ix_inferences_finish_time", "inferences", ["finish_time"], unique=False)
    op.create_index("ix_inferences_inputs_held", "inferences", ["inputs_held", "state"], unique=False)
    op.create_index("ix_inferences_model", "inferences", ["model", "row"], unique=False)
    op.create_index("ix_inferences_result_due", "inferences", ["result_due"], unique=False)
    op.create_index("ix_inferences_state", "inferences", ["state", "priority", "row"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("inference", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("server", sa.String(length=256), nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("finish_time", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["inference"],
            ["inferences.row"],
        ),
        sa.PrimaryKeyConstraint("row"),
        sa.UniqueConstraint("inference", "number"),
    )
