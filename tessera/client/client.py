"""One object for all three services."""

import asyncio
from types import TracebackType
from typing import Self

from tessera.client.inference import InferenceClient
from tessera.client.ptychography import PtychographyClient
from tessera.client.queued import QueuedInferenceClient
from tessera.client.registry import RegistryClient
from tessera.client.trainer import TrainerClient
from tessera.rpc.channel import open_channel
from tessera.settings import ClientSettings


class Client:
    """Channels to the services of one installation, with the typed client of each.

    Connections are made when they are first used, so a service that is not called need not run.

    Args:
        registry: Address of the registry, `host:port`; of any service: `ipv4:IP:PORT,IP:PORT` for several servers, asked in turn.
        trainer: Address of the trainer.
        inference: Address of the inference service.
        settings: TLS, token, timeouts and message sizes.

    Example:
        async with Client(registry="registry.example:8010") as client:
            version = await client.registry.get_version("puzzle", alias="champion")
    """

    def __init__(
        self,
        registry: str = "127.0.0.1:8010",
        trainer: str = "127.0.0.1:8020",
        inference: str = "127.0.0.1:8001",
        settings: ClientSettings | None = None,
    ) -> None:
        self._addresses = (registry, trainer, inference)
        self._settings = settings or ClientSettings()

    async def __aenter__(self) -> Self:
        """Open the channels."""
        self._channels = [open_channel(address, self._settings) for address in self._addresses]
        registry, trainer, inference = self._channels
        self.registry = RegistryClient(registry, self._settings.timeout_s)
        self.trainer = TrainerClient(trainer, self._settings.timeout_s)
        self.inference = InferenceClient(inference, self._settings.timeout_s)
        self.ptychography = PtychographyClient(inference, self._settings.max_message_bytes)
        self.queued = QueuedInferenceClient(inference, self.registry, self._settings.timeout_s)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels))
