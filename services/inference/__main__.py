"""The inference service: `python -m services.inference`."""

from services.inference.calls import Watcher
from services.inference.catalogue import Catalogue
from services.inference.leases import Leases
from services.inference.limits import Limits, ModelLimits
from services.inference.loading import Loader
from services.inference.memory import MemoryBudget
from services.inference.open_inference.servicer import TASK as TENSORS
from services.inference.open_inference.servicer import open_inference_service
from services.inference.pool import Pool
from services.inference.queued.wiring import QueuedInference, build_queued
from services.inference.rollouts.rollouts import Rollouts
from services.inference.routing import Router
from services.inference.runtimes import Runtimes
from services.inference.sampling import Sampler
from services.inference.servicer import ServingServicer
from services.inference.settings import InferenceSettings
from services.inference.typed import typed_services, typed_tasks
from services.inference.typed.module import Parts
from tessera.api.inference.v1 import serving_pb2
from tessera.api.inference.v1.serving_pb2_grpc import add_ServingServiceServicer_to_server
from tessera.blob_files import disk_errors
from tessera.client.registry import RegistryClient
from tessera.lifecycle import launch, serve
from tessera.rpc.auth import Role
from tessera.rpc.channel import open_channel
from tessera.rpc.server import Service


def build_pool(settings: InferenceSettings, registry: RegistryClient) -> Pool:
    """Return the pool of a server. Raises UnavailableError if its cache directory cannot be made."""
    cache_dir = settings.cache_dir.expanduser()
    with disk_errors():
        cache_dir.mkdir(parents=True, exist_ok=True)
    limits = ModelLimits(Limits(settings.max_batch, settings.threads, settings.queue_size, max_concurrency=settings.max_concurrency))
    memory = MemoryBudget(settings.memory_bytes)
    loader = Loader(
        registry,
        cache_dir,
        [*typed_tasks(), TENSORS],
        Runtimes(settings),
        memory,
        timeout_s=settings.load_timeout_s,
        cache_bytes=settings.cache_bytes,
        limits=limits,
    )
    leases = Leases(registry, settings.name, settings.lease_s)
    return Pool(Catalogue(registry, limits, Rollouts(registry)), loader, leases, memory, max_on_demand=settings.max_on_demand)


def build_services(
    settings: InferenceSettings, registry: RegistryClient, pool: Pool, queued: QueuedInference, watchers: tuple[Watcher, ...] = ()
) -> list[Service]:
    """Return the gRPC services over a pool.

    Args:
        settings: Of the server.
        registry: Where scans are.
        pool: Where models are.
        queued: Queued inference.
        watchers: Are told of every call.
    """
    serving = serving_pb2.DESCRIPTOR.services_by_name
    router = Router(pool, watchers)
    return [
        *typed_services(Parts(settings, registry, router, pool.limits, queued)),
        Service(add_ServingServiceServicer_to_server, ServingServicer(pool), serving["ServingService"], {"ListServed": Role.READER}),
        open_inference_service(router, pool),
        queued.service(),
    ]


async def run(settings: InferenceSettings) -> None:
    """Serve until SIGTERM."""
    async with open_channel(settings.registry_address, settings.registry) as channel:
        registry = RegistryClient(channel, settings.registry.timeout_s)
        pool = build_pool(settings, registry)
        samplers = (Sampler(registry, settings.sampling),) if settings.sampling.ratio else ()
        queued = build_queued(settings, registry, Router(pool, samplers), pool.limits)
        services = build_services(settings, registry, pool, queued, samplers)
        components = [*samplers, pool, *queued.components]
        await serve(settings, services=services, components=components, dependencies=queued.dependencies)


def main() -> None:
    """Run the service with the settings of the environment and the command line."""
    launch(InferenceSettings, "inference", run)


if __name__ == "__main__":
    main()
