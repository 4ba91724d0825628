"""Reconstructions beside tensors: how far one is."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("inferences", sa.Column("reconstruction", sa.JSON(), nullable=True))
