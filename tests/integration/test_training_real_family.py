"""The real worker with the real family: killed in the middle of a training, finished by another worker, registered and aliased."""

import asyncio
import json
import uuid

import pytest
from opentelemetry import context

from model_store.manifest import Manifest
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.telemetry import extract
from tests.fixtures.family import PICTURE
from tests.fixtures.trainer import TrainingStack

pytestmark = pytest.mark.slow


async def until_announced(training: TrainingStack) -> None:
    async with asyncio.timeout(120):  # the worker asks a process that loads torch
        while not await training.client.trainer.list_families():
            await asyncio.sleep(0.1)


async def test_a_killed_training_of_puzzle_cells_is_finished_by_another_worker(training: TrainingStack) -> None:
    settings = {"stall_timeout_s": "60"}
    first = training.start_worker("trainers.worker", **settings)
    picture = await training.client.registry.upload_file(PICTURE)
    await until_announced(training)
    spec = pb.JobSpec(family="puzzle_cells", architecture="cells_exp3", model="photo", alias="champion")
    spec.model_config.update({"columns": 4, "rows": 3})
    spec.hyperparameters.update({"epochs": 300, "evaluate_every": 300, "learning_rate": 1e-2})
    spec.inputs.add(name="picture", sha256=picture.sha256, size_bytes=picture.size_bytes)
    job_id = (await training.client.trainer.submit_job(spec)).job.id

    await training.until(job_id, lambda job: job.progress.epoch >= 5 and job.progress.phase == "train", within_s=120)
    first.kill()
    training.start_worker("trainers.worker", **settings)
    job = await training.until(job_id, lambda job: job.HasField("finish_time"), within_s=180)

    assert (job.state, job.version) == (pb.JOB_STATE_SUCCEEDED, 1), f"{job}\n{training.logs()}"
    assert job.attempts[1].resumed_from_epoch >= 5
    assert job.progress.epoch == 300
    version = await training.client.registry.get_version("photo", alias="champion")
    manifest = Manifest.parse(version.manifest_json)
    assert (manifest.lineage.job_id, manifest.lineage.experiment_id) == (job_id, job.experiment_id)
    assert (await training.client.registry.verify_version("photo", 1)).intact
    await training.assert_history(job, 300)
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
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert [line["trace_id"] for line in lines if line["event"] == "attempt begins"] == [trace_id]
