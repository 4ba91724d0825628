"""Puts queued inference together: its service, and its components."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.inference.limits import ModelLimits
from services.inference.ptychography.reconstructing import Reconstructor
from services.inference.queued.attempts import Attempts
from services.inference.queued.computing import Computer
from services.inference.queued.connections import MIGRATIONS, Connections
from services.inference.queued.consumer import Consumer
from services.inference.queued.dispatcher import PRIORITIES, Dispatcher
from services.inference.queued.inferences import Inferences
from services.inference.queued.intake import Intake
from services.inference.queued.outbox import Outbox
from services.inference.queued.reconstructions import Reconstructions
from services.inference.queued.servicer import ROLES, Desk, QueuedInferenceServicer
from services.inference.queued.store import Store
from services.inference.queued.tables import ENDED, State
from services.inference.routing import Router
from services.inference.settings import InferenceSettings
from tessera.api.inference.v1 import queued_pb2
from tessera.api.inference.v1.queued_pb2_grpc import add_QueuedInferenceServiceServicer_to_server
from tessera.changes import Changes
from tessera.client.registry import RegistryClient
from tessera.database import Database
from tessera.lifecycle import Component, Dependency
from tessera.queue import WorkQueue, connect
from tessera.rpc.server import Service
from tessera.sql import open_database


@dataclass(frozen=True)
class QueuedInference:
    """The parts of queued inference.

    Args:
        desk: What its service stands before; None where it is off.
        components: To be started after the pool.
        dependencies: Calls that are waited for are answered without them.
    """

    desk: Desk | None = None
    components: list[Component] = field(default_factory=list)
    dependencies: Sequence[Dependency] = ()

    def service(self) -> Service:
        """Return the gRPC service, which where it is off says what to set."""
        descriptor = queued_pb2.DESCRIPTOR.services_by_name["QueuedInferenceService"]
        return Service(add_QueuedInferenceServiceServicer_to_server, QueuedInferenceServicer(self.desk), descriptor, ROLES)


def build_queued(settings: InferenceSettings, registry: RegistryClient, router: Router, limits: ModelLimits) -> QueuedInference:
    """Return queued inference as the settings say.

    Args:
        settings: Of the server.
        registry: Where models, inputs and results are.
        router: Where models are computed.
        limits: How many rows go into a batch of each model.

    Raises:
        InvalidArgumentError: A URL is malformed.
    """
    if settings.database_url is None or settings.redis_url is None:
        return QueuedInference()
    engine = open_database(settings.database_url.get_secret_value())
    redis = connect(settings.redis_url.get_secret_value())
    # Longer than an attempt's lease: when an entry is taken over, the attempt behind it has been given up.
    queue_lease_s = 1.5 * settings.queue_lease_s
    queues = {
        number: WorkQueue(redis, f"tessera:inference:{priority.name.lower()}", "servers", lease_s=queue_lease_s)
        for number, priority in PRIORITIES.items()
    }
    inferences = Inferences(engine)
    attempts = Attempts(engine, lease_s=settings.queue_lease_s, retry_delay_s=settings.queue_retry_delay_s)
    store = Store(registry, settings.cache_dir.expanduser() / "queued")
    changes = Changes(inferences.get, lambda inference: State(inference.state) in ENDED)
    database = Database(engine, MIGRATIONS)
    connections = Connections(database, redis)
    dispatcher = Dispatcher(
        attempts=attempts,
        outbox=Outbox(engine),
        store=store,
        changes=changes,
        queues=queues,
        prepare=database.prepare,
        keep_s=settings.queue_keep_s,
        interval_s=settings.queue_reconcile_s,
    )
    consumer = Consumer(
        server=settings.name,
        queues=queues,
        concurrency=settings.queue_concurrency,
        attempts=attempts,
        computer=Computer(router, limits),
        reconstructions=Reconstructions(Reconstructor(router, limits)),
        store=store,
        changes=changes,
        dispatcher=dispatcher,
    )
    desk = Desk(
        intake=Intake(inferences, store, registry),
        inferences=inferences,
        changes=changes,
        dispatcher=dispatcher,
        store=store,
        message_bytes=settings.max_message_bytes,
    )
    return QueuedInference(desk, [connections, dispatcher, consumer], connections.dependencies())
