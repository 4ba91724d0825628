"""Migrations of the database of queued inference."""
