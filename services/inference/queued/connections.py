"""What queued inference is connected to, as a component: opened before it works, closed after it has stopped."""

import asyncio

import structlog
from redis.asyncio import Redis
from sqlalchemy.engine import Engine

from tessera.errors import UnavailableError
from tessera.sql import close_database, migrate

log = structlog.get_logger()

MIGRATIONS = "services.inference.queued.migrations"


class Connections:
    """The database and Redis of queued inference. A server answers calls that are waited for while they are away.

    Args:
        engine: The database.
        redis: Connects when it is first used.
    """

    name = "connections of queued inference"

    def __init__(self, engine: Engine, redis: Redis) -> None:
        self._engine = engine
        self._redis = redis
        self._prepared = False

    async def start(self) -> None:
        """Bring the schema up to date, or leave that for later while the database is away.

        Raises:
            FailedPreconditionError: The schema was made by a newer release.
        """
        try:
            await self.prepare()
        except UnavailableError as error:
            log.warning("the database of queued inference is away", reason=error.message)

    async def prepare(self) -> None:
        """Bring the schema up to date, once. Raises UnavailableError while the database is away."""
        if not self._prepared:
            await asyncio.to_thread(migrate, self._engine, MIGRATIONS)
            self._prepared = True

    async def stop(self) -> None:
        """Close both."""
        await self._redis.aclose()
        await asyncio.to_thread(close_database, self._engine)

    async def check(self) -> None:
        """Return always."""
