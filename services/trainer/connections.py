"""What the trainer is connected to, as components: opened before it serves, closed after it has stopped."""

import asyncio

import grpc
from redis.asyncio import Redis
from sqlalchemy.engine import Engine

from tessera.sql import check_database, close_database, migrate

MIGRATIONS = "services.trainer.migrations"


class Database:
    """The trainer's database; the trainer is ready while it answers."""

    name = "database"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def start(self) -> None:
        """Bring the schema up to date."""
        await asyncio.to_thread(migrate, self._engine, MIGRATIONS)

    async def stop(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(close_database, self._engine)

    async def check(self) -> None:
        """Raise UnavailableError unless the database answers."""
        await asyncio.to_thread(check_database, self._engine)


class Connections:
    """Redis and the registry. Both connect when they are first used, and the trainer serves on while they are away."""

    name = "connections"

    def __init__(self, redis: Redis, registry: grpc.aio.Channel) -> None:
        self._redis = redis
        self._registry = registry

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Close both."""
        await self._redis.aclose()
        await self._registry.close()

    async def check(self) -> None:
        """Return always."""
