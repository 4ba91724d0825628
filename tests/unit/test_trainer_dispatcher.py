"""The dispatcher on a real redis-server: whatever is missing outside the database is made good by the next pass."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from services.trainer.connections import MIGRATIONS
from services.trainer.dispatcher import Dispatcher
from services.trainer.outbox import Task
from services.trainer.registry import Registry
from services.trainer.tables import Outcome
from services.trainer.watch import JobWatch
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.client.registry import RegistryClient
from tessera.database import Database
from tessera.errors import NotFoundError, UnavailableError
from tessera.queue import WorkQueue, connect, training_queue
from tests.fixtures.redis import RedisServer
from tests.fixtures.registry import RegistryServer
from tests.fixtures.trainer import TrainerCore


class FakeRegistry(Registry):
    """Knows one version at most and what is held, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.version = 0
        self.asked: list[tuple[str, int]] = []
        self.calls: list[tuple[str, str, list[str]]] = []

    async def settle(self, task: Task) -> int:
        if self.away:
            raise UnavailableError("away")
        self.asked.append((task.job_id, task.attempt))
        return self.version

    async def hold_inputs(self, job_id: str, digests: Sequence[str]) -> None:
        self.calls.append(("hold", job_id, list(digests)))
        if "gone" in digests:
            raise NotFoundError("gone")

    async def release_inputs(self, job_id: str, digests: Sequence[str]) -> None:
        if self.away:
            raise UnavailableError("away")
        self.calls.append(("release", job_id, list(digests)))


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def queue(redis: Redis) -> WorkQueue:
    return training_queue(redis, "fake", lease_s=45)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
async def dispatcher(trainer_core: TrainerCore, redis: Redis, registry: FakeRegistry) -> Dispatcher:
    """One that has been at work before anything happens: its first pass renews all leases."""
    dispatcher = Dispatcher(
        jobs=trainer_core.jobs,
        families=trainer_core.families,
        attempts=trainer_core.attempts,
        outbox=trainer_core.outbox,
        registry=registry,
        watch=JobWatch(trainer_core.jobs),
        queue_of=lambda family: training_queue(redis, family, lease_s=45),
        prepare=Database(trainer_core.engine, MIGRATIONS).prepare,
        interval_s=1,
    )
    await dispatcher.reconcile()
    return dispatcher


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here; the rows are tested on both elsewhere."""
    return sqlite_url


async def test_a_queued_job_is_dispatched_once(trainer_core: TrainerCore, dispatcher: Dispatcher, queue: WorkQueue) -> None:
    job = trainer_core.submit()
    for _ in range(3):
        await dispatcher.reconcile()
    assert await queue.depth() == 1
    delivery = await queue.take("w", 0.1)
    assert delivery is not None
    assert delivery.fields["job_id"] == job.id


async def test_a_vanished_entry_is_dispatched_again(
    trainer_core: TrainerCore, dispatcher: Dispatcher, queue: WorkQueue, redis: Redis
) -> None:
    trainer_core.submit()
    await dispatcher.reconcile()
    await redis.flushall()
    await dispatcher.reconcile()
    assert await queue.depth() == 1


async def test_jobs_are_taken_in_while_redis_is_away_and_dispatched_afterwards(
    trainer_core: TrainerCore, dispatcher: Dispatcher, queue: WorkQueue, redis_server: RedisServer
) -> None:
    redis_server.kill()
    trainer_core.submit()
    await dispatcher.reconcile()
    redis_server.start()
    await dispatcher.reconcile()
    assert await queue.depth() == 1


async def test_the_entry_of_a_job_that_ended_is_withdrawn(
    trainer_core: TrainerCore, dispatcher: Dispatcher, queue: WorkQueue, redis: Redis
) -> None:
    job = trainer_core.submit()
    await dispatcher.reconcile()
    trainer_core.jobs.cancel(job.id)
    await dispatcher.reconcile()
    assert await redis.xlen(queue.stream) == 0


async def test_a_failure_becomes_one_dead_letter_when_the_registry_is_back_and_knows_of_no_version(
    trainer_core: TrainerCore, dispatcher: Dispatcher, queue: WorkQueue, redis: Redis, registry: FakeRegistry
) -> None:
    job = trainer_core.submit(max_attempts=1)
    trainer_core.attempts.claim(job.id, "w", 1)
    trainer_core.attempts.report(job.id, 1, experiment_id="e1")
    trainer_core.clock.advance(timedelta(minutes=1))
    registry.away = True
    await dispatcher.reconcile()
    assert await redis.xlen(queue.dead_stream) == 0
    registry.away = False
    for _ in range(2):
        await dispatcher.reconcile()
    [(_, letter)] = await redis.xrange(queue.dead_stream)
    assert (letter["job_id"], letter["reason"]) == (job.id, "worker w was not heard of for 30 s (attempt 1 of 1)")
    assert registry.asked == [(job.id, 1)]


async def test_a_job_that_lost_its_last_attempt_has_succeeded_if_its_version_exists(
    trainer_core: TrainerCore, dispatcher: Dispatcher, queue: WorkQueue, redis: Redis, registry: FakeRegistry
) -> None:
    job = trainer_core.submit(max_attempts=1)
    await dispatcher.reconcile()
    trainer_core.attempts.claim(job.id, "w", 1)
    trainer_core.attempts.report(job.id, 1, experiment_id="e1")
    trainer_core.clock.advance(timedelta(minutes=1))
    registry.version = 5
    await dispatcher.reconcile()
    ended = trainer_core.jobs.get(job.id)
    assert (ended.state, ended.version, ended.error) == (pb.JOB_STATE_SUCCEEDED, 5, "")
    assert (await redis.xlen(queue.stream), await redis.xlen(queue.dead_stream)) == (0, 0)


async def test_a_job_that_a_worker_claimed_while_it_was_dispatched_keeps_its_entry(
    trainer_core: TrainerCore, queue: WorkQueue, dispatcher: Dispatcher
) -> None:
    job = trainer_core.submit()
    [task] = trainer_core.outbox.list_to_dispatch()
    entry_id = await queue.add({"job_id": job.id})
    trainer_core.attempts.claim(job.id, "w", 1)
    assert trainer_core.outbox.set_dispatched(task, entry_id)
    assert not trainer_core.outbox.set_dispatched(task, "0-1")
    trainer_core.attempts.finish(job.id, 1, Outcome.SUCCEEDED, version=1)
    assert not trainer_core.outbox.set_dispatched(task, "0-1")
    await dispatcher.reconcile()
    assert not await queue.contains(entry_id)


async def test_inputs_are_held_for_as_long_as_a_job_waits_or_runs_and_released_when_it_ends(
    trainer_core: TrainerCore, dispatcher: Dispatcher, registry: FakeRegistry
) -> None:
    job = trainer_core.submit(inputs=["a" * 64, "b" * 64])
    hold = ("hold", job.id, ["a" * 64, "b" * 64])
    for hours, calls in ((0, 1), (11, 1), (1, 2), (12, 3)):
        trainer_core.clock.advance(timedelta(hours=hours))
        for _ in range(2):
            await dispatcher.reconcile()
        assert registry.calls == calls * [hold]
    trainer_core.attempts.claim(job.id, "w", 1)
    trainer_core.attempts.finish(job.id, 1, Outcome.SUCCEEDED, version=1)
    registry.away = True
    await dispatcher.reconcile()
    registry.away = False
    for _ in range(2):
        await dispatcher.reconcile()
    assert registry.calls == [hold, hold, hold, ("release", *hold[1:])]


async def test_an_input_that_is_gone_keeps_no_other_job_from_being_held(
    trainer_core: TrainerCore, dispatcher: Dispatcher, registry: FakeRegistry
) -> None:
    jobs = [trainer_core.submit(inputs=[digest]) for digest in ("gone", "a" * 64)]
    trainer_core.submit()
    for _ in range(2):
        await dispatcher.reconcile()
    assert [job_id for _, job_id, _ in registry.calls] == [job.id for job in jobs]


async def test_a_hold_is_a_lease_of_the_registry(registry_server: RegistryServer) -> None:
    client = RegistryClient(registry_server.channel)
    registry = Registry(client)
    digests = [(await client.upload_bytes(content)).sha256 for content in (b"one", b"two")]

    def held() -> int:
        with registry_server.engine.connect() as connection:
            return connection.execute(sa.text("SELECT count(*) FROM leases")).scalar_one()

    for job_id in ("j1", "j2", "j1"):
        await registry.hold_inputs(job_id, digests)
    assert held() == 4
    for _ in range(2):
        await registry.release_inputs("j1", [*digests, "0" * 64])
    assert held() == 2
    with pytest.raises(NotFoundError, match="upload it first") as raised:
        await registry.hold_inputs("j3", [digests[0], "0" * 64])
    assert raised.value.field == "spec.inputs[1].sha256"
