"""Drills: what a job is said to have ended with is what the registry holds, also where its last worker could not report it."""

import asyncio
import signal
from pathlib import Path

import pytest

from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tests.fixtures.trainer import TrainingStack
from tests.fixtures.waiting import WAIT_S

pytestmark = pytest.mark.slow

FREEZING = "tests.fakes.freezing_worker"


async def versions(training: TrainingStack) -> list[registry_pb2.Version]:
    return [version async for version in training.client.registry.list_versions()]


async def until_a_version_exists(training: TrainingStack) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await versions(training):
            await asyncio.sleep(0.05)


async def seen_states(training: TrainingStack, job_id: str) -> set[int]:
    return {job.state async for job in training.client.trainer.watch_job(job_id)}


async def test_a_worker_that_froze_behind_its_version_leaves_a_success_though_no_attempt_is_left(training: TrainingStack) -> None:
    worker = training.start_worker(FREEZING)
    job_id = await training.submit(epochs=2, alias="champion", max_attempts=1)
    states = asyncio.create_task(seen_states(training, job_id))
    job = await training.until_ended(job_id)
    assert (job.state, job.version, job.error) == (pb.JOB_STATE_SUCCEEDED, 1, ""), training.logs()
    assert "worker-1 was not heard of" in job.attempts[0].error
    assert pb.JOB_STATE_FAILED not in await states
    assert [(version.version, list(version.aliases)) for version in await versions(training)] == [(1, ["champion"])]
    experiment = await training.client.registry.get_experiment(job.experiment_id)
    assert (experiment.state, experiment.version) == (registry_pb2.EXPERIMENT_STATE_SUCCEEDED, 1)
    assert experiment.metrics["top1"] == 0.99
    await training.assert_history(job, 2)

    worker.send(signal.SIGCONT)
    await training.until_queue_is_empty()
    again = await training.until_ended(await training.submit(epochs=1, alias="champion"))
    assert (again.state, again.version, again.attempts[0].worker) == (pb.JOB_STATE_SUCCEEDED, 2, "worker-1"), training.logs()
    assert [list(version.aliases) for version in await versions(training) if version.version == 1] == [[]]


async def test_a_job_that_was_cancelled_behind_its_version_says_so_and_moves_no_alias(training: TrainingStack) -> None:
    training.start_worker(FREEZING)
    job_id = await training.submit(epochs=2, alias="champion")
    await until_a_version_exists(training)
    await training.client.trainer.cancel_job(job_id)
    job = await training.until_ended(job_id)
    assert (job.state, job.version, job.cancel_requested) == (pb.JOB_STATE_SUCCEEDED, 1, True), training.logs()
    assert [list(version.aliases) for version in await versions(training)] == [[]]
    experiment = await training.client.registry.get_experiment(job.experiment_id)
    assert (experiment.state, experiment.version) == (registry_pb2.EXPERIMENT_STATE_SUCCEEDED, 1)


async def test_a_failure_is_told_only_when_the_registry_has_said_that_nothing_came_of_it(training: TrainingStack, tmp_path: Path) -> None:
    training.start_worker()
    signal_file = tmp_path / "the-registry-is-away"
    job_id = await training.submit(epochs=4, raise_at=3, raise_when_exists=str(signal_file), permanent=True)
    await training.until_training(job_id)
    training.registry.kill()
    signal_file.touch()
    ending = await training.until(job_id, lambda job: job.attempts[0].HasField("finish_time"))
    assert (ending.state, ending.error) == (pb.JOB_STATE_RUNNING, "")
    assert ending in [job async for job in training.client.trainer.list_jobs(state=pb.JOB_STATE_RUNNING)]
    await asyncio.to_thread(training.registry.start)
    job = await training.until_ended(job_id)
    assert (job.state, job.error) == (pb.JOB_STATE_FAILED, "epoch 3 went wrong")
    experiment = await training.client.registry.get_experiment(job.experiment_id)
    assert (experiment.state, experiment.error) == (registry_pb2.EXPERIMENT_STATE_FAILED, job.error)
