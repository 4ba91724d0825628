"""Limits of a model on its servers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("models", sa.Column("serving", sa.LargeBinary(), nullable=True))
