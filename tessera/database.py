"""The database of a service as a part of its life."""

import asyncio

import structlog
from sqlalchemy.engine import Engine

from tessera.errors import ResourceExhaustedError, UnavailableError
from tessera.sql import check_database, close_database, migrate

log = structlog.get_logger()


class Database:
    """A component that brings the schema up to date as soon as the database answers, and is ready while it does.

    Args:
        engine: Of `open_database`.
        migrations: Import path of the service's Alembic folder.
    """

    name = "database"

    def __init__(self, engine: Engine, migrations: str) -> None:
        self._engine = engine
        self._migrations = migrations
        self._prepared = False

    async def start(self) -> None:
        """Prepare the database, or leave that for later while it is away or full.

        Raises:
            FailedPreconditionError: A newer release has made it.
        """
        try:
            await self.prepare()
        except (UnavailableError, ResourceExhaustedError) as error:
            log.warning("the database is not ready, will try again", reason=error.message)

    async def stop(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(close_database, self._engine)

    async def prepare(self) -> None:
        """Bring the schema up to date, once. Raises what `migrate` does."""
        if not self._prepared:
            await asyncio.to_thread(migrate, self._engine, self._migrations)
            self._prepared = True

    async def check(self) -> None:
        """Raise a TesseraError unless the database is prepared, answers, and has had room for what was written last."""
        await self.prepare()
        await asyncio.to_thread(check_database, self._engine)
