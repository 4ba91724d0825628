"""What the registry depends on, as one part of its life: ready while database and blob store answer."""

import asyncio

from sqlalchemy.engine import Engine

from model_store.factory import open_store
from model_store.store import BlobStore
from services.registry.settings import RegistrySettings
from tessera.database import Database

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
        s3_public_endpoint=settings.s3_public_endpoint,
        s3_public_secure=settings.s3_public_secure,
    )


class Storage:
    """The database and the blob store of a registry.

    A registry may start before them: it is NOT_SERVING until both answer, and then brings the schema up to date.
    """

    name = "storage"

    def __init__(self, engine: Engine, store: BlobStore) -> None:
        self._database = Database(engine, MIGRATIONS)
        self._store = store

    async def start(self) -> None:
        """Prepare the database. Raises FailedPreconditionError if a newer release has made it; that it is away is no error yet."""
        await self._database.start()

    async def stop(self) -> None:
        """Close all connections."""
        await self._database.stop()

    async def check(self) -> None:
        """Raise a TesseraError while one of the two does not answer or has no room."""
        await self._database.check()
        await asyncio.to_thread(self._store.check)
