"""Drills: whatever is killed, frozen or lost while a job trains, it ends with exactly one version and no finished epoch is trained again.

Real processes throughout: redis-server, registry, trainer, workers and their children (which only pretend to train).
"""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tests.fixtures.trainer import TrainingStack

pytestmark = pytest.mark.slow

EPOCHS = 6


async def held(training: TrainingStack, epoch: int, **wishes: int) -> str:
    """Submit a job whose first attempt stays in this epoch until it is let go, and return its id when it is there."""
    job_id = await training.submit(epochs=EPOCHS, epoch_s=0.05, alias="champion", hold_at=epoch, **wishes)
    await training.until_training(job_id, epoch - 1)
    return job_id


async def assert_one_version(training: TrainingStack, job_id: str) -> pb.Job:
    """Wait for the end of the job and make sure that it came out as if nothing had happened."""
    job = await training.until_ended(job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED, f"{job}\n{training.logs()}"
    versions = [version async for version in training.client.registry.list_versions("cells")]
    assert [(version.version, list(version.aliases)) for version in versions] == [(1, ["champion"])]
    assert job.version == 1
    experiment = await training.client.registry.get_experiment(job.experiment_id)
    assert experiment.state == registry_pb2.EXPERIMENT_STATE_SUCCEEDED
    await training.assert_history(job, EPOCHS)
    assert len([entry async for entry in training.client.registry.list_experiments()]) == 1
    assert_no_epoch_twice(training, job_id)
    await training.until_queue_is_empty()
    assert all(attempt.HasField("finish_time") for attempt in job.attempts)
    return job


def assert_no_epoch_twice(training: TrainingStack, job_id: str) -> None:
    finished = Counter(epoch for what, _, epoch in training.epochs(job_id) if what == "end")
    assert finished == Counter(range(1, EPOCHS + 1)), training.epochs(job_id)


async def test_another_worker_resumes_what_a_killed_worker_left(training: TrainingStack) -> None:
    first = training.start_worker()
    job_id = await held(training, 3)
    child = training.child_pid(first)
    training.start_worker()
    first.kill()
    job = await assert_one_version(training, job_id)
    assert [attempt.worker for attempt in job.attempts] == ["worker-1", "worker-2"]
    assert "worker-1 was not heard of" in job.attempts[0].error
    assert job.attempts[1].resumed_from_epoch == 2
    await _until_gone(child)


@pytest.mark.parametrize("epoch", [3, EPOCHS])
async def test_the_metrics_of_an_epoch_survive_a_worker_killed_between_its_checkpoint_and_its_report(
    training: TrainingStack, epoch: int
) -> None:
    first = training.start_worker()
    job_id = await training.submit(epochs=EPOCHS, alias="champion", kill_worker_at=epoch)
    await asyncio.to_thread(first.wait)
    training.start_worker()
    job = await assert_one_version(training, job_id)
    assert [attempt.resumed_from_epoch for attempt in job.attempts] == [0, epoch]


async def test_a_killed_child_is_started_again_and_the_error_names_the_signal(training: TrainingStack) -> None:
    worker = training.start_worker()
    job_id = await held(training, 3)
    os.kill(training.child_pid(worker), signal.SIGKILL)
    job = await assert_one_version(training, job_id)
    assert len(job.attempts) == 2
    assert "SIGKILL" in job.attempts[0].error


async def test_training_goes_on_while_the_trainer_is_down(training: TrainingStack) -> None:
    training.start_worker()
    job_id = await held(training, 2)
    watch = training.client.trainer.watch_job(job_id)
    watched = asyncio.create_task(_last(watch))
    training.trainer.kill()
    before = len(training.epochs(job_id))
    training.let_go(job_id)
    await _until_epochs(training, job_id, before + 2)
    await asyncio.to_thread(training.trainer.start)
    job = await assert_one_version(training, job_id)
    assert len(job.attempts) == 1
    async with asyncio.timeout(30):
        assert (await watched).state == pb.JOB_STATE_SUCCEEDED


async def test_a_crash_of_redis_loses_no_job(training: TrainingStack) -> None:
    training.start_worker()
    job_id = await held(training, 2)
    waiting = await training.submit(epochs=1)
    await asyncio.to_thread(training.redis.restart)
    training.let_go(job_id)
    job = await training.until_ended(job_id)
    assert (job.state, len(job.attempts)) == (pb.JOB_STATE_SUCCEEDED, 1), training.logs()
    assert (await training.until_ended(waiting)).state == pb.JOB_STATE_SUCCEEDED
    assert_no_epoch_twice(training, job_id)
    await training.until_queue_is_empty()


async def test_a_flushed_redis_is_filled_again_from_the_database(training: TrainingStack) -> None:
    training.start_worker()
    job_id = await held(training, 2)
    waiting = await training.submit(epochs=1)
    async with Redis.from_url(training.redis.url) as redis:
        await redis.flushall()
    training.let_go(job_id)
    job = await training.until_ended(job_id)
    assert (job.state, len(job.attempts)) == (pb.JOB_STATE_SUCCEEDED, 1), training.logs()
    assert (await training.until_ended(waiting)).state == pb.JOB_STATE_SUCCEEDED, training.logs()
    assert_no_epoch_twice(training, job_id)
    await training.until_queue_is_empty()


async def test_a_version_waits_for_the_registry_and_appears_once(training: TrainingStack) -> None:
    training.start_worker()
    job_id = await held(training, EPOCHS - 1)
    training.registry.kill()
    training.let_go(job_id)
    await training.until(job_id, lambda job: job.progress.phase == "publish" or len(training.epochs(job_id)) == 2 * EPOCHS)
    await asyncio.to_thread(training.registry.start)
    job = await assert_one_version(training, job_id)
    assert len(job.attempts) == 1


async def test_a_worker_that_was_frozen_past_its_lease_is_fenced_off(training: TrainingStack) -> None:
    zombie = training.start_worker()
    job_id = await held(training, 3, faulty_attempts=2)  # the second one too, so that it is not over when the first one wakes up
    child = training.child_pid(zombie)
    os.kill(child, signal.SIGSTOP)
    zombie.send(signal.SIGSTOP)
    training.start_worker()
    await training.until(job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].resumed_from_epoch == 2)
    os.kill(child, signal.SIGCONT)
    zombie.send(signal.SIGCONT)
    await _until_gone(child)
    training.let_go(job_id)
    job = await assert_one_version_in_spite_of_a_zombie(training, job_id)
    assert [attempt.worker for attempt in job.attempts] == ["worker-1", "worker-2"]
    next_job = await training.submit(epochs=1)
    assert (await training.until_ended(next_job)).state == pb.JOB_STATE_SUCCEEDED


async def assert_one_version_in_spite_of_a_zombie(training: TrainingStack, job_id: str) -> pb.Job:
    """As `assert_one_version`; the zombie's child may have ended one epoch more in its own directory before it was stopped."""
    job = await training.until_ended(job_id)
    assert (job.state, job.version) == (pb.JOB_STATE_SUCCEEDED, 1), f"{job}\n{training.logs()}"
    assert len([version async for version in training.client.registry.list_versions("cells")]) == 1
    resumed = job.attempts[1].resumed_from_epoch
    assert [epoch for what, attempt, epoch in training.epochs(job_id) if (what, attempt) == ("end", 2)] == list(
        range(resumed + 1, EPOCHS + 1)
    )
    await training.until_queue_is_empty()
    return job


async def test_a_stopped_worker_gives_its_job_back_at_once(training: TrainingStack) -> None:
    first = training.start_worker()
    job_id = await held(training, 3, max_attempts=1)
    assert await asyncio.to_thread(first.end, signal.SIGTERM) == 0
    job = await training.client.trainer.get_job(job_id)
    assert (job.state, job.attempts[0].error) == (pb.JOB_STATE_QUEUED, "the worker was stopped")
    training.start_worker()
    job = await assert_one_version(training, job_id)
    assert len(job.attempts) == 2, "one that was given back does not count against max_attempts"


async def _last(watch: object) -> pb.Job:
    job = pb.Job()
    async for job in watch:  # type: ignore[attr-defined]  # noqa: B007
        pass
    return job


async def _until_epochs(training: TrainingStack, job_id: str, count: int) -> None:
    async with asyncio.timeout(30):
        while len(training.epochs(job_id)) < count:
            await asyncio.sleep(0.05)


async def _until_gone(pid: int) -> None:
    async with asyncio.timeout(30):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.05)
