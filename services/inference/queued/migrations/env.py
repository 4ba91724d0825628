"""Alembic's entry: the tables whose schema the revisions in `versions/` make."""

from services.inference.queued.tables import Table
from tessera.sql import run_migrations

run_migrations(Table.metadata)
