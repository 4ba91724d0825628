"""When the hold on a job's inputs is to be renewed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("inputs_due_time", sa.BigInteger(), nullable=True))
    op.create_index("ix_jobs_inputs_due_time", "jobs", ["inputs_due_time"], unique=False)
    op.execute("UPDATE jobs SET inputs_due_time = 0 WHERE finish_time IS NULL")
