"""One trace follows a job: from its client through the trainer, Redis and the worker to the registry and the server that swaps to it."""

import hashlib
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from model_store.manifest import FileEntry
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.client.trainer import FINISHED
from tessera.telemetry import tracer
from tests.fixtures.collector import Collector, is_whole
from tests.fixtures.inference import InferenceProcess, TinyModel, manifest_of
from tests.fixtures.redis import RedisServer
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.spans import spans  # noqa: F401 - a fixture
from tests.fixtures.trainer import TrainerProcess, TrainingStack
from tests.fixtures.waiting import WAIT_S, until

pytestmark = pytest.mark.slow

WANTED = {
    ("client", "TrainerService/SubmitJob"),
    ("trainer", "TrainerService/SubmitJob"),
    ("trainer", "queue publish"),
    ("worker", "train job"),
    ("worker", "WorkerService/ClaimJob"),
    ("trainer", "WorkerService/ClaimJob"),
    ("worker", "train"),
    ("registry", "RegistryService/CreateExperiment"),
    ("worker", "RegistryService/CreateVersion"),
    ("registry", "RegistryService/CreateVersion"),
    ("registry", "RegistryService/SetAlias"),
    ("trainer", "WorkerService/FinishAttempt"),
    ("inference", "inference.swap"),
    ("inference", "inference.load"),
    ("inference", "RegistryService/GetVersion"),
    ("registry", "RegistryService/GetVersion"),
}


def write_artifact(directory: Path, tiny: TinyModel) -> None:
    """Write a version that a server can load."""
    directory.mkdir()
    entries = []
    for path, role, data in (("model.onnx", "graph", tiny.graph()), ("golden.safetensors", "golden", tiny.golden())):
        (directory / path).write_bytes(data)
        entries.append(FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), role=role))
    (directory / "manifest.json").write_bytes(manifest_of("cells", tuple(entries)).canonical_json())


async def test_the_spans_of_a_job_from_five_processes_make_one_trace(
    tmp_path: Path,
    redis_server: RedisServer,
    collector: tuple[Collector, str],
    spans: InMemorySpanExporter,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # milliseconds; five seconds otherwise
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # seconds, so that a busy machine loses no span
    received, endpoint = collector
    for name in ("registry", "trainer", "inference"):
        (tmp_path / name).mkdir()
    registry = RegistryProcess(tmp_path / "registry", otlp_endpoint=endpoint)
    trainer = TrainerProcess(tmp_path / "trainer", redis_server.url, registry.address, otlp_endpoint=endpoint)
    inference = InferenceProcess(tmp_path / "inference", registry.address, otlp_endpoint=endpoint)
    stack = TrainingStack(tmp_path, redis_server, registry, trainer)
    try:
        registry.start()
        trainer.start()
        stack.start_worker(otlp_endpoint=endpoint, stall_timeout_s="60")
        inference.start()
        async with stack.client:
            write_artifact(tmp_path / "artifact", TinyModel(marker=1))
            spec = await stack.spec(epochs=1, alias="champion")
            spec.hyperparameters["artifact"] = str(tmp_path / "artifact")
            with tracer.start_as_current_span("a person") as root:
                job_id = (await stack.client.trainer.submit_job(spec)).job.id
            job = await stack.until(job_id, lambda job: job.state in FINISHED, within_s=WAIT_S)
            assert job.state == pb.JOB_STATE_SUCCEEDED, stack.logs()
        trace_id = root.get_span_context().trace_id
        await until(lambda: is_whole(received.trace(trace_id, spans.get_finished_spans()), WANTED))
        (load,) = (span for span in received.spans["inference"] if span.name == "inference.load")
        assert load.status.code != load.status.STATUS_CODE_ERROR
    finally:
        for program in (*stack.workers, trainer):
            program.close()
        for process in (inference, registry):
            if process.process is not None:
                process.kill()
