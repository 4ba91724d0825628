"""Everything started before what it needs, and some of that taken away later: all wait, say for what, and work without a restart."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tessera.api.inference.v1 import queued_pb2
from tessera.api.trainer.v1 import trainer_pb2
from tessera.client import Client
from tessera.client.queued import QueuedInferenceClient
from tessera.rpc.channel import open_channel
from tests.fixtures.faults import OwnS3, Service, closing
from tests.fixtures.inference import TinyModel, publish_version
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.queued import MODEL, images
from tests.fixtures.queued import until_ended as until_computed
from tests.fixtures.redis import RedisServer
from tests.fixtures.trainer import FINISHED
from tests.fixtures.volume import Volume
from tests.fixtures.waiting import WAIT_S, until

REDIS_AWAY = "Redis cannot be reached"
DATABASE_AWAY = "the database is unavailable"
NO_ROOM = "no space left"


@dataclass
class Stack:
    """All services and what they need, of which nothing runs yet."""

    redis: RedisServer
    s3: OwnS3
    postgres: PostgresServer
    registry: Service
    trainer: Service
    worker: Service
    inference: Service
    work_dir: Volume

    @property
    def client(self) -> Client:
        """A client of the registry and the trainer."""
        return Client(registry=self.registry.address, trainer=self.trainer.address)

    async def train(self) -> None:
        """Train a job of the pretended family to its end."""
        async with self.client as client:
            picture = await client.registry.upload_bytes(b"a picture")
            spec = trainer_pb2.JobSpec(family="fake", architecture="tiny", model="cells")
            spec.hyperparameters.update({"epochs": 1, "epoch_s": 0.0})
            spec.inputs.add(name="picture", sha256=picture.sha256, size_bytes=picture.size_bytes)
            job = (await client.trainer.submit_job(spec)).job
            async with asyncio.timeout(WAIT_S):
                while job.state not in FINISHED:
                    await asyncio.sleep(0.05)
                    job = await client.trainer.get_job(job.id)
            assert (job.state, len(job.attempts)) == (trainer_pb2.JOB_STATE_SUCCEEDED, 1), job

    async def compute(self) -> None:
        """Have a queued request computed."""
        async with open_channel(self.inference.address) as channel, self.client as client:
            queued = QueuedInferenceClient(channel, client.registry)
            submitted = (await queued.submit({"image": images(1)}, MODEL)).inference.id
            assert (await until_computed(queued, submitted)).state == queued_pb2.INFERENCE_STATE_SUCCEEDED


@pytest.fixture
async def stack(tmp_path: Path, postgres_server: PostgresServer) -> AsyncIterator[Stack]:
    (tmp_path / "redis").mkdir()
    redis, s3 = RedisServer(tmp_path / "redis"), OwnS3(tmp_path / "s3")
    urls = [postgres_server.create_database() for _ in range(3)]
    postgres_server.stop()
    registry = Service("services.registry", tmp_path, database_url=urls[0], **s3.settings)
    trainer = Service(
        "services.trainer", tmp_path, database_url=urls[1], redis_url=redis.url, registry_address=registry.address, reconcile_s=0.1
    )
    worker = Service(
        "tests.fakes.worker",
        tmp_path,
        redis_url=redis.url,
        work_dir=tmp_path / "work",
        trainer_address=trainer.address,
        registry_address=registry.address,
    )
    inference = Service(
        "services.inference",
        tmp_path,
        database_url=urls[2],
        redis_url=redis.url,
        registry_address=registry.address,
        cache_dir=tmp_path / "cache",
        queue_reconcile_s=0.1,
    )
    async with closing(inference, worker, trainer, registry):
        yield Stack(redis, s3, postgres_server, registry, trainer, worker, inference, Volume(worker, tmp_path / "work", size_mib=96))
    redis.stop()
    s3.stop()
    postgres_server.start()
    for url in urls:
        postgres_server.drop_database(url)


async def test_all_wait_for_what_they_need_and_work_when_it_has_come_at_the_start_and_later(stack: Stack) -> None:
    for service in (stack.inference, stack.worker, stack.trainer, stack.registry):
        service.start()
    await stack.registry.until(False, DATABASE_AWAY)
    await stack.trainer.until(False, DATABASE_AWAY)
    await stack.trainer.until(False, REDIS_AWAY, dependency="redis")
    await stack.worker.until(False, "the trainer does not know this worker yet")
    await stack.inference.until(False, "the registry has not been read yet")
    await stack.inference.until(False, REDIS_AWAY, dependency="redis")
    await stack.inference.until(False, DATABASE_AWAY, dependency="queue database")
    for needed in (stack.redis, stack.s3, stack.postgres):  # what they need first comes last
        await asyncio.to_thread(needed.start)
    for service in (stack.registry, stack.trainer, stack.worker, stack.inference):
        await service.until(True)
    async with stack.client as client:
        await publish_version(client.registry, MODEL, TinyModel(marker=1), alias="champion")
    await asyncio.gather(stack.train(), stack.compute())
    await lose_redis(stack)
    await lose_postgres(stack)
    await lose_room(stack)
    for service in (stack.registry, stack.trainer, stack.worker, stack.inference):
        assert "Traceback" not in service.log.read_text()


async def lose_redis(stack: Stack) -> None:
    """Take Redis away from services that are at work, and give it back."""
    await asyncio.to_thread(stack.redis.kill)
    await stack.worker.until(False, REDIS_AWAY)
    await stack.trainer.until(False, REDIS_AWAY, dependency="redis")
    await stack.inference.until(False, REDIS_AWAY, dependency="redis")
    await stack.trainer.until(True)  # it takes jobs all the same
    await stack.inference.until(True)
    work = asyncio.gather(stack.train(), stack.compute())
    await asyncio.to_thread(stack.redis.start)
    await stack.worker.until(True)
    await stack.trainer.until(True, dependency="redis")
    await stack.inference.until(True, dependency="redis")
    await work


async def lose_postgres(stack: Stack) -> None:
    """Take PostgreSQL away from services that are at work, and give it back."""
    await asyncio.to_thread(stack.postgres.stop)
    await stack.registry.until(False, DATABASE_AWAY)
    await stack.trainer.until(False, DATABASE_AWAY)
    await stack.inference.until(False, DATABASE_AWAY, dependency="queue database")
    await stack.inference.until(True)  # what is waited for is answered all the same
    await asyncio.to_thread(stack.postgres.start)
    await stack.registry.until(True)
    await stack.trainer.until(True)
    await stack.inference.until(True, dependency="queue database")
    await asyncio.gather(stack.train(), stack.compute())


async def lose_room(stack: Stack) -> None:
    """Fill the work directory of the worker, and free it again: meanwhile it takes no job."""
    stack.work_dir.fill()
    await stack.worker.until(False, NO_ROOM)
    # Only now does it wait for no job any more that it would begin without room.
    await until(lambda: any(line["event"].startswith("cannot work now") and NO_ROOM in line["reason"] for line in stack.worker.lines()))
    training = asyncio.create_task(stack.train())
    await asyncio.to_thread(stack.work_dir.free)
    await stack.worker.until(True)
    await training
