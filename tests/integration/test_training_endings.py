"""Drills: jobs that are cancelled, hang, raise or are submitted twice end clearly, and leave nothing behind."""

import asyncio

import pytest
from redis.asyncio import Redis

from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from tests.fixtures.trainer import TrainingStack
from tests.fixtures.waiting import WAIT_S

pytestmark = pytest.mark.slow


async def assert_no_version(training: TrainingStack, job: pb.Job, experiment_state: int) -> None:
    assert [model async for model in training.client.registry.list_models()] == []
    async with asyncio.timeout(WAIT_S):
        while (await training.client.registry.get_experiment(job.experiment_id)).state != experiment_state:
            await asyncio.sleep(0.05)
    await training.until_queue_is_empty()


async def dead_letters(training: TrainingStack) -> list[dict[str, str]]:
    async with Redis.from_url(training.redis.url, decode_responses=True) as redis, asyncio.timeout(WAIT_S):
        while not (entries := await redis.xrange("tessera:jobs:fake:dead")):
            await asyncio.sleep(0.05)
    return [fields for _, fields in entries]


async def test_a_queued_job_is_cancelled_at_once_and_a_running_one_within_seconds(training: TrainingStack) -> None:
    training.start_worker()
    running = await training.submit(epochs=1000)
    queued = await training.submit(epochs=1)
    await training.until_training(running)
    assert (await training.client.trainer.cancel_job(queued)).state == pb.JOB_STATE_CANCELLED
    assert (await training.client.trainer.cancel_job(running)).cancel_requested
    job = await training.until_ended(running)
    assert (job.state, job.error, len(job.attempts)) == (pb.JOB_STATE_CANCELLED, "", 1)
    assert (await training.client.trainer.cancel_job(running)).state == pb.JOB_STATE_CANCELLED
    assert (await training.client.trainer.get_job(queued)).attempts == []
    await assert_no_version(training, job, registry_pb2.EXPERIMENT_STATE_CANCELLED)


async def test_a_child_that_hangs_is_killed_and_the_next_attempt_goes_on(training: TrainingStack) -> None:
    training.start_worker(stall_timeout_s="5")  # long enough for the second child to begin to speak on a busy machine
    job = await training.until_ended(await training.submit(epochs=4, hang_at=3))
    assert (job.state, len(job.attempts)) == (pb.JOB_STATE_SUCCEEDED, 2), training.logs()
    assert "no sign of life" in job.attempts[0].error
    assert job.attempts[1].resumed_from_epoch == 2
    assert [epoch for what, _, epoch in training.epochs(job.id) if what == "end"] == [1, 2, 3, 4]
    await training.until_queue_is_empty()


async def test_an_error_that_is_permanent_fails_the_job_without_another_attempt(training: TrainingStack) -> None:
    training.start_worker()
    job = await training.until_ended(await training.submit(epochs=4, raise_at=2, permanent=True))
    assert (job.state, job.error, len(job.attempts)) == (pb.JOB_STATE_FAILED, "epoch 2 went wrong", 1)
    await assert_no_version(training, job, registry_pb2.EXPERIMENT_STATE_FAILED)


async def test_a_job_that_keeps_failing_is_tried_max_attempts_times_and_becomes_a_dead_letter(training: TrainingStack) -> None:
    training.start_worker()
    job = await training.until_ended(await training.submit(epochs=4, raise_at=2, faulty_attempts=9, max_attempts=3))
    assert (job.state, job.error) == (pb.JOB_STATE_FAILED, "epoch 2 went wrong (attempt 3 of 3)")
    assert [(attempt.number, attempt.error) for attempt in job.attempts] == [(number, "epoch 2 went wrong") for number in (1, 2, 3)]
    assert [attempt.resumed_from_epoch for attempt in job.attempts] == [0, 1, 1]
    [letter] = await dead_letters(training)
    assert (letter["job_id"], letter["reason"]) == (job.id, job.error)
    await assert_no_version(training, job, registry_pb2.EXPERIMENT_STATE_FAILED)


async def test_an_attempt_that_takes_too_long_is_ended(training: TrainingStack) -> None:
    training.start_worker()
    spec = await training.spec(epochs=1000, max_attempts=1)
    spec.attempt_timeout.FromMilliseconds(1500)
    job = await training.until_ended((await training.client.trainer.submit_job(spec)).job.id)
    assert (job.state, job.error) == (pb.JOB_STATE_FAILED, "took longer than 1.5 s (attempt 1 of 1)")


async def test_the_same_key_is_one_job_however_often_and_concurrently_it_is_submitted(training: TrainingStack) -> None:
    training.start_worker()
    spec = await training.spec(epochs=2)
    answers = await asyncio.gather(*(training.client.trainer.submit_job(spec, idempotency_key="photo-1") for _ in range(10)))
    assert len({answer.job.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    await training.until_ended(answers[0].job.id)
    again = await training.client.trainer.submit_job(spec, idempotency_key="photo-1")
    assert (again.created, again.job.state) == (False, pb.JOB_STATE_SUCCEEDED)
    spec.hyperparameters.update({"epochs": 3})
    with pytest.raises(AlreadyExistsError, match=r"photo-1.*another spec"):
        await training.client.trainer.submit_job(spec, idempotency_key="photo-1")
    assert len([version async for version in training.client.registry.list_versions("cells")]) == 1
    assert len([job async for job in training.client.trainer.list_jobs()]) == 1


async def test_a_job_that_cannot_be_trained_is_refused_with_what_is_known(training: TrainingStack) -> None:
    training.start_worker()
    good = await training.spec(epochs=2)
    for change, error, field, message in (
        ({"architecture": "huge"}, InvalidArgumentError, "spec.architecture", "known: tiny"),
        ({"family": "lego"}, InvalidArgumentError, "spec.family", "known: fake"),
        ({"model": "../etc"}, InvalidArgumentError, "spec.model", "not a valid name"),
        ({"inputs": []}, InvalidArgumentError, "spec.inputs", "'picture' is missing"),
        ({"inputs": [pb.InputFile(name="picture", sha256="0" * 64)]}, NotFoundError, "spec.inputs[0].sha256", "upload it first"),
    ):
        fields = {descriptor.name: value for descriptor, value in good.ListFields()} | change
        with pytest.raises(error, match=message) as raised:
            await training.client.trainer.submit_job(pb.JobSpec(**fields))
        assert raised.value.field == field
    good.hyperparameters.update({"learning_rate": 1})
    with pytest.raises(InvalidArgumentError, match=r"unknown hyperparameter 'learning_rate'; known: artifact, die_at, epoch_s, epochs"):
        await training.client.trainer.submit_job(good)
