"""What a typed service is made of, and what its module has to provide."""

from dataclasses import dataclass
from typing import Protocol

from services.inference.limits import ModelLimits
from services.inference.queued.wiring import QueuedInference
from services.inference.routing import Router
from services.inference.served import ServedTask
from services.inference.settings import InferenceSettings
from tessera.client.registry import RegistryClient
from tessera.rpc.server import Service


@dataclass(frozen=True)
class Parts:
    """What a typed service may need of its server.

    Args:
        settings: Of the server.
        registry: Where files are.
        router: Where models are computed.
        limits: How many rows go into a batch of each model.
        queued: Queued inference.
    """

    settings: InferenceSettings
    registry: RegistryClient
    router: Router
    limits: ModelLimits
    queued: QueuedInference


class TypedModule(Protocol):
    """A module of this package."""

    TASK: ServedTask
    """The task whose versions the service asks."""

    def create(self, parts: Parts) -> Service:
        """Return the service of a server."""
