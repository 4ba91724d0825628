"""One trace follows a job: from the caller through the trainer, Redis and the worker to the registry, as a collector receives it."""

import uuid
from pathlib import Path

import pytest
from opentelemetry import context

from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.telemetry import extract
from tests.fixtures.collector import Collector
from tests.fixtures.redis import RedisServer
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.trainer import TrainerProcess, TrainingStack
from tests.fixtures.waiting import until

pytestmark = pytest.mark.slow


async def test_the_spans_of_a_job_from_three_processes_make_one_trace(
    tmp_path: Path, redis_server: RedisServer, collector: tuple[Collector, str]
) -> None:
    received, endpoint = collector
    for name in ("registry", "trainer"):
        (tmp_path / name).mkdir()
    registry = RegistryProcess(tmp_path / "registry", otlp_endpoint=endpoint)
    trainer = TrainerProcess(tmp_path / "trainer", redis_server.url, registry.address, otlp_endpoint=endpoint)
    stack = TrainingStack(tmp_path, redis_server, registry, trainer)
    trace_id = uuid.uuid4().hex

    def names(service: str) -> set[str]:
        return {span.name.rsplit(".", 1)[-1] for span in received.spans.get(service, []) if span.trace_id.hex() == trace_id}

    try:
        registry.start()
        trainer.start()
        stack.start_worker(otlp_endpoint=endpoint)
        async with stack.client:
            spec = await stack.spec(epochs=1)
            token = context.attach(extract({"traceparent": f"00-{trace_id}-{'1' * 16}-01"}))
            try:
                job_id = (await stack.client.trainer.submit_job(spec)).job.id
            finally:
                context.detach(token)
            assert (await stack.until_ended(job_id)).state == pb.JOB_STATE_SUCCEEDED, stack.logs()
        await until(lambda: "TrainerService/SubmitJob" in names("trainer"))
        await until(lambda: {"WorkerService/ClaimJob", "WorkerService/FinishAttempt"} <= names("trainer"))  # called by the worker
        await until(lambda: {"RegistryService/CreateExperiment", "RegistryService/CreateVersion"} <= names("registry"))
        await until(lambda: "RegistryService/CreateVersion" in names("worker"))  # the caller's side of it
    finally:
        for program in (*stack.workers, trainer):
            program.close()
        if registry.process is not None:
            registry.kill()
