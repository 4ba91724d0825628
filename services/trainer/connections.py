"""What the trainer is connected to beside its database, as a component: closed after it has stopped."""

import grpc
from redis.asyncio import Redis

MIGRATIONS = "services.trainer.migrations"


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
