"""The trainer: `python -m services.trainer`."""

from functools import partial

from services.trainer.attempts import Attempts
from services.trainer.connections import MIGRATIONS, Connections
from services.trainer.dispatcher import Dispatcher
from services.trainer.families import Families
from services.trainer.intake import Intake
from services.trainer.jobs import Jobs
from services.trainer.outbox import Outbox
from services.trainer.registry import Registry
from services.trainer.servicer import TRAINER_ROLES, WORKER_ROLES, TrainerServicer, WorkerServicer
from services.trainer.settings import TrainerSettings
from services.trainer.watch import JobWatch
from tessera.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc, worker_pb2, worker_pb2_grpc
from tessera.client.registry import RegistryClient
from tessera.database import Database
from tessera.lifecycle import Dependency, launch, serve
from tessera.queue import check_redis, connect, training_queue
from tessera.rpc.channel import open_channel
from tessera.rpc.server import Service
from tessera.sql import open_database


async def run(settings: TrainerSettings) -> None:
    """Serve until SIGTERM."""
    engine = open_database(settings.database_url.get_secret_value())
    redis = connect(settings.redis_url.get_secret_value())
    channel = open_channel(settings.registry_address, settings.registry)
    # Longer than an attempt's lease: when an entry is taken over, the attempt behind it has been given up.
    queue_lease_s = 1.5 * settings.lease_s

    database = Database(engine, MIGRATIONS)
    jobs = Jobs(engine)
    families = Families(engine, keep_s=settings.family_keep_s)
    attempts = Attempts(engine, lease_s=settings.lease_s, retry_delay_s=settings.retry_delay_s)
    registry = Registry(RegistryClient(channel, settings.registry.timeout_s))
    watch = JobWatch(jobs)
    dispatcher = Dispatcher(
        jobs=jobs,
        families=families,
        attempts=attempts,
        outbox=Outbox(engine),
        registry=registry,
        watch=watch,
        queue_of=lambda family: training_queue(redis, family, lease_s=queue_lease_s),
        prepare=database.prepare,
        interval_s=settings.reconcile_s,
    )
    trainer = TrainerServicer(intake=Intake(jobs, families, registry), jobs=jobs, families=families, watch=watch, dispatcher=dispatcher)
    worker = WorkerServicer(attempts=attempts, families=families, watch=watch, dispatcher=dispatcher, queue_lease_s=queue_lease_s)
    await serve(
        settings,
        services=[
            Service(
                trainer_pb2_grpc.add_TrainerServiceServicer_to_server,
                trainer,
                trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"],
                TRAINER_ROLES,
            ),
            Service(
                worker_pb2_grpc.add_WorkerServiceServicer_to_server,
                worker,
                worker_pb2.DESCRIPTOR.services_by_name["WorkerService"],
                WORKER_ROLES,
            ),
        ],
        components=[database, Connections(redis, channel), dispatcher],
        dependencies=[Dependency("redis", partial(check_redis, redis))],
    )


def main() -> None:
    """Read the settings and serve."""
    launch(TrainerSettings, "trainer", run)


if __name__ == "__main__":
    main()
