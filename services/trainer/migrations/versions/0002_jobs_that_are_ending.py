"""Jobs are ENDING while the registry is asked for a version; what was to be told it before is asked so too."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("UPDATE jobs SET state = 100, finish_time = NULL, dead_letter_due = false WHERE experiment_due")
    op.drop_index("ix_jobs_experiment_due", table_name="jobs")
    op.drop_column("jobs", "experiment_due")
