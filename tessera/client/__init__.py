"""The Python client: async, typed, with deadlines on every call.

async with Client() as client:
    async for model in client.registry.list_models():
        print(model.name, dict(model.aliases))
"""

from tessera.client.client import Client
from tessera.client.inference import InferenceClient
from tessera.client.ptychography import PtychographyClient
from tessera.client.queued import QueuedInferenceClient
from tessera.client.registry import RegistryClient
from tessera.client.trainer import TrainerClient

__all__ = ["Client", "InferenceClient", "PtychographyClient", "QueuedInferenceClient", "RegistryClient", "TrainerClient"]
