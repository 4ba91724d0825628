"""Rollouts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NAME = sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("model", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("stable_version", sa.BigInteger(), nullable=False),
        sa.Column("candidate_version", sa.BigInteger(), nullable=False),
        sa.Column("weight_percent", sa.Double(), nullable=False),
        sa.Column("shadow_percent", sa.Double(), nullable=False),
        sa.Column("guard", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("change_time", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("id", ROW_ID, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index("ix_rollouts_alias", "rollouts", ["model", "alias", "id"])
    op.create_index("ix_rollouts_candidate", "rollouts", ["model", "candidate_version", "state"])
    op.create_index("ix_rollouts_create_time", "rollouts", ["create_time", "id"])
    op.create_index("ix_rollouts_model", "rollouts", ["model", "id"])
    op.create_index("ix_rollouts_state", "rollouts", ["state", "id"])
    op.create_table(
        "rollout_changes",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_rollout_changes")),
    )
    op.create_index("ix_rollout_changes_alias", "rollout_changes", ["model", "alias", "revision"])
