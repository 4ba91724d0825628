"""The trainer without its Redis: it takes jobs, says that it is well, and dispatches when Redis is back."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tessera.api.trainer.v1 import trainer_pb2 as pb
from tests.fixtures.trainer import TrainingStack
from tests.fixtures.waiting import WAIT_S


async def test_jobs_are_taken_without_redis_and_begin_when_it_is_back(training: TrainingStack) -> None:
    training.start_worker()
    spec = await training.spec(epochs=1)
    training.redis.kill()
    job = (await training.client.trainer.submit_job(spec)).job
    assert job.state == pb.JOB_STATE_QUEUED
    async with grpc.aio.insecure_channel(training.trainer.address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert (await training.client.trainer.get_job(job.id)).state == pb.JOB_STATE_QUEUED
    await asyncio.to_thread(training.redis.start)
    assert (await training.until_ended(job.id)).state == pb.JOB_STATE_SUCCEEDED
