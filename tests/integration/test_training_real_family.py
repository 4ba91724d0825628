"""The real worker with the real family: killed in the middle of a training, finished by another worker, registered and aliased."""

import asyncio
import uuid

import pytest
from opentelemetry import context

from model_store.manifest import Manifest
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.telemetry import extract
from tests.fixtures.family import PICTURE
from tests.fixtures.logs import logged_lines
from tests.fixtures.trainer import TrainingStack
from tests.fixtures.waiting import WAIT_S, until

pytestmark = pytest.mark.slow

EPOCHS = 100


async def until_announced(training: TrainingStack) -> None:
    async with asyncio.timeout(3 * WAIT_S):  # the worker asks a process that loads torch
        while not await training.client.trainer.list_families():
            await asyncio.sleep(0.1)


@pytest.mark.timeout(900)
async def test_a_killed_training_of_puzzle_cells_is_finished_by_another_worker(training: TrainingStack) -> None:
    settings = {"stall_timeout_s": "300"}
    first = training.start_worker("trainers.worker", **settings)
    picture = await training.client.registry.upload_file(PICTURE)
    await until_announced(training)
    spec = pb.JobSpec(family="puzzle_cells", architecture="cells_exp3", model="photo", alias="champion")
    spec.model_config.update({"columns": 4, "rows": 3})
    spec.hyperparameters.update({"epochs": EPOCHS, "evaluate_every": EPOCHS, "learning_rate": 1e-2})
    spec.inputs.add(name="picture", sha256=picture.sha256, size_bytes=picture.size_bytes)
    job_id = (await training.client.trainer.submit_job(spec)).job.id

    # Not what the job says of itself: that comes a second later, when it may be over.
    checkpoints = training.work_dir / "jobs" / job_id / "attempt-1" / "checkpoints"
    await until(lambda: any(path.stem >= "epoch=0005" for path in checkpoints.glob("epoch=*.ckpt")), 3 * WAIT_S)
    first.kill()
    training.start_worker("trainers.worker", **settings)
    job = await training.until(job_id, lambda job: job.HasField("finish_time"), within_s=5 * WAIT_S)

    assert (job.state, job.version) == (pb.JOB_STATE_SUCCEEDED, 1), f"{job}\n{training.logs()}"
    assert job.attempts[1].resumed_from_epoch >= 5
    assert job.progress.epoch == EPOCHS
    version = await training.client.registry.get_version("photo", alias="champion")
    manifest = Manifest.parse(version.manifest_json)
    assert (manifest.lineage.job_id, manifest.lineage.experiment_id) == (job_id, job.experiment_id)
    assert (await training.client.registry.verify_version("photo", 1)).intact
    await training.assert_history(job, EPOCHS)
    experiment = await training.client.registry.get_experiment(job.experiment_id)
    assert (experiment.hyperparameters["batch_size"], experiment.model_config["columns"]) == (128, 4)  # a default, and what was asked for
    assert experiment.git_commit
    assert manifest.lineage.git_commit
    await training.until_queue_is_empty("puzzle_cells")


async def test_the_trace_of_the_submitter_reaches_the_worker_through_redis(training: TrainingStack) -> None:
    worker = training.start_worker()
    spec = await training.spec(epochs=1)
    trace_id = uuid.uuid4().hex
    token = context.attach(extract({"traceparent": f"00-{trace_id}-{'1' * 16}-01"}))
    try:
        job_id = (await training.client.trainer.submit_job(spec)).job.id
    finally:
        context.detach(token)
    await training.until_ended(job_id)
    assert [line["trace_id"] for line in logged_lines(worker.log) if line["event"] == "attempt begins"] == [trace_id]
