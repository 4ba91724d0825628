"""Run the registry: `python -m services.registry --help`."""

from services.registry.core import Registry
from services.registry.servicer import registry_service
from services.registry.settings import RegistrySettings
from services.registry.storage import Storage, configured_store
from services.registry.streams import Transfers
from tessera.lifecycle import launch, serve
from tessera.sql import open_database


async def run(settings: RegistrySettings) -> None:
    """Serve until SIGTERM."""
    engine = open_database(settings.database_url.get_secret_value())
    store = configured_store(settings)
    transfers = Transfers()
    service = registry_service(Registry.over(engine, store), transfers)
    await serve(settings, services=[service], components=[Storage(engine, store), transfers])


def main() -> None:
    """Read the settings and serve until told to stop."""
    launch(RegistrySettings, "registry", run)


if __name__ == "__main__":
    main()
