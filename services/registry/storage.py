"""What the registry depends on, as one part of its life: ready while database and blob store answer."""

import asyncio

import structlog
from sqlalchemy.engine import Engine

from model_store.factory import open_store
from model_store.store import BlobStore
from services.registry.settings import RegistrySettings
from tessera.errors import UnavailableError
from tessera.sql import check_database, close_database, migrate

log = structlog.get_logger()

MIGRATIONS = "services.registry.migrations"


def configured_store(settings: RegistrySettings) -> BlobStore:
    """Return the blob store that the settings name. Raises InvalidArgumentError if they cannot be right."""
    return open_store(
        settings.blob_store,
        s3_endpoint=settings.s3_endpoint,
        s3_access_key=settings.s3_access_key,
        s3_secret_key=settings.s3_secret_key.get_secret_value(),
        s3_region=settings.s3_region,
        s3_secure=settings.s3_secure,
    )


class Storage:
    """The database and the blob store of a registry.

    A registry may start before them: it is NOT_SERVING until both answer, and then brings the schema up to date.
    """

    name = "storage"

    def __init__(self, engine: Engine, store: BlobStore) -> None:
        self._engine = engine
        self._store = store
        self._migrated = False

    async def start(self) -> None:
        """Prepare the database. Raises FailedPreconditionError if a newer release has made it; that it is away is no error yet."""
        try:
            await self.check()
        except UnavailableError as error:
            log.warning("storage is not ready", reason=error.message)

    async def stop(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(close_database, self._engine)

    async def check(self) -> None:
        """Raise UnavailableError while one of the two does not answer."""
        if self._migrated:
            await asyncio.to_thread(check_database, self._engine)
        else:
            await asyncio.to_thread(migrate, self._engine, MIGRATIONS)
            self._migrated = True
        await asyncio.to_thread(self._store.check)
