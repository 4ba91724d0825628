"""Puts together what the service of ptychography works with."""

from services.inference.limits import ModelLimits
from services.inference.ptychography.reconstructing import Reconstructor
from services.inference.ptychography.servicer import Workshop
from services.inference.queued.store import Store
from services.inference.routing import Router
from services.inference.settings import InferenceSettings
from tessera.client.registry import RegistryClient


def build_workshop(settings: InferenceSettings, registry: RegistryClient, router: Router, limits: ModelLimits) -> Workshop:
    """Return what the servicer works with.

    Args:
        settings: Of the server.
        registry: Where scans are.
        router: Where models are computed.
        limits: How many rows go into a batch of each model.
    """
    directory = settings.cache_dir.expanduser() / "reconstructions"
    return Workshop(Reconstructor(router, limits), Store(registry, directory), directory, settings.reconstruction)
