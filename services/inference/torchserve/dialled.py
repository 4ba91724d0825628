"""A TorchServe that somebody else started and that other inference servers may use too: a container of its own, for example."""

from contextlib import suppress
from pathlib import Path

import structlog

from services.inference.torchserve.client import Client
from services.inference.torchserve.keys import Keys
from services.inference.torchserve.owners import Owner, owner_of
from services.inference.torchserve.settings import TorchServeSettings
from tessera.blob_files import disk_errors
from tessera.errors import NotFoundError

log = structlog.get_logger()


class DialledTorchServe:
    """A TorchServe behind addresses. It shares its model store with us.

    Args:
        settings: Its addresses, keys and model store.
        model_store: The latter.

    Raises:
        UnavailableError: The model store cannot be written to.
        ResourceExhaustedError: Its disk is full.
    """

    local = False

    def __init__(self, settings: TorchServeSettings, model_store: Path) -> None:
        self._settings = settings
        self._client: Client | None = None
        self.model_store = model_store
        with disk_errors():
            self._owner = Owner(model_store)
        self.owner = self._owner.id

    def start(self) -> Client:
        """Connect, and remove what this server registered before it lost the connection; UnavailableError if nobody answers."""
        settings = self._settings
        keys = Keys(settings.key_file, settings.management_url) if settings.key_file else None
        self._client = Client(settings.address, settings.management_address, keys)
        self._client.ping()
        self._unregister_all(self.owner)
        return self._client

    def check(self) -> None:
        """Raise a TesseraError if it does not answer; remove what servers left that have died."""
        self._connected.ping()
        with disk_errors():
            self._owner.settle_dead(self._remove_all)

    def stop(self) -> None:
        """Disconnect."""
        if self._client:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """Disconnect; TorchServe goes on. What is registered still is removed by another server."""
        self.stop()
        self._owner.close()

    @property
    def _connected(self) -> Client:
        assert self._client, "start comes first"
        return self._client

    def _remove_all(self, owner: str) -> None:
        self._unregister_all(owner)
        self._owner.remove_archives(owner)
        log.info("what another server left in TorchServe is removed", owner=owner)

    def _unregister_all(self, owner: str) -> None:
        for name in self._connected.models():
            if owner_of(name) == owner:
                with suppress(NotFoundError):  # TorchServe also lists names of models that it could not load
                    self._connected.unregister(name)
