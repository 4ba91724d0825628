"""What queued inference is connected to, as a component: opened before it works, closed after it has stopped."""

from collections.abc import Sequence
from functools import partial

from redis.asyncio import Redis

from tessera.database import Database
from tessera.lifecycle import Dependency
from tessera.queue import check_redis

MIGRATIONS = "services.inference.queued.migrations"


class Connections:
    """The database and Redis of queued inference. A server answers calls that are waited for while they are away.

    Args:
        database: Its tables are made as soon as it answers.
        redis: Connects when it is first used.
    """

    name = "connections of queued inference"

    def __init__(self, database: Database, redis: Redis) -> None:
        self._database = database
        self._redis = redis

    def dependencies(self) -> Sequence[Dependency]:
        """Return both, to be watched."""
        return (Dependency("queue database", self._database.check), Dependency("redis", partial(check_redis, self._redis)))

    async def start(self) -> None:
        """Bring the schema up to date, or leave that for later while the database is away.

        Raises:
            FailedPreconditionError: The schema was made by a newer release.
        """
        await self._database.start()

    async def stop(self) -> None:
        """Close both."""
        await self._redis.aclose()
        await self._database.stop()

    async def check(self) -> None:
        """Return always."""
