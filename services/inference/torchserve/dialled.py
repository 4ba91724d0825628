"""A TorchServe that somebody else started, for this server alone: a container in the same pod, for example."""

import re
from contextlib import suppress
from pathlib import Path

from services.inference.torchserve.client import Client
from services.inference.torchserve.keys import Keys
from services.inference.torchserve.settings import TorchServeSettings
from tessera.errors import NotFoundError

_OUR_VERSION = re.compile(r"\d+\.[0-9a-f]{8}")


class DialledTorchServe:
    """A TorchServe behind addresses. It shares its model store with us.

    Args:
        settings: Its addresses, keys and model store.
        model_store: The latter.
    """

    local = False

    def __init__(self, settings: TorchServeSettings, model_store: Path) -> None:
        self._settings = settings
        self._client: Client | None = None
        self.model_store = model_store

    def start(self) -> Client:
        """Connect, and remove what an earlier process of ours registered; UnavailableError if nobody answers."""
        settings = self._settings
        keys = Keys(settings.key_file, settings.management_url) if settings.key_file else None
        self._client = Client(settings.address, settings.management_address, keys)
        self._client.ping()
        for model in self._client.models():
            self._forget_ours(self._client, model)
        return self._client

    def check(self) -> None:
        """Raise a TesseraError if it does not answer."""
        assert self._client, "start comes first"
        self._client.ping()

    def stop(self) -> None:
        """Disconnect."""
        if self._client:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """Disconnect; TorchServe goes on."""
        self.stop()

    @staticmethod
    def _forget_ours(client: Client, model: str) -> None:
        with suppress(NotFoundError):  # TorchServe also lists names of models that it could not load
            for version in filter(_OUR_VERSION.fullmatch, client.versions(model)):
                client.unregister(model, version)
