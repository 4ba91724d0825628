"""Run the registry: `python -m services.registry --help`."""

from model_store.factory import open_store
from services.registry.core import Registry
from services.registry.servicer import registry_service
from services.registry.settings import RegistrySettings
from services.registry.storage import Storage
from services.registry.streams import Transfers
from tessera.lifecycle import launch, serve
from tessera.sql import open_database


async def run(settings: RegistrySettings) -> None:
    """Serve until SIGTERM."""
    engine = open_database(settings.database_url.get_secret_value())
    store = open_store(
        settings.blob_store,
        s3_endpoint=settings.s3_endpoint,
        s3_access_key=settings.s3_access_key,
        s3_secret_key=settings.s3_secret_key.get_secret_value(),
        s3_region=settings.s3_region,
        s3_secure=settings.s3_secure,
    )
    transfers = Transfers()
    service = registry_service(Registry.over(engine, store), transfers)
    await serve(settings, services=[service], components=[Storage(engine, store), transfers])


def main() -> None:
    """Read the settings and serve until told to stop."""
    launch(RegistrySettings, "registry", run)


if __name__ == "__main__":
    main()
