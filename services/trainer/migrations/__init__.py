"""The schema of the trainer's database, one Alembic revision a change."""
