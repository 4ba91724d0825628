"""One attempt at a job, from its claim to its end."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from google.protobuf import json_format

from tessera.api.trainer.v1 import trainer_pb2, worker_pb2
from tessera.blobs import BlobRef
from tessera.client.registry import RegistryClient
from tessera.errors import InvalidArgumentError, NotFoundError, StaleFenceError, TesseraError
from tessera.telemetry import tracer
from trainers.experiment import ExperimentLog
from trainers.metrics import EpochTimes
from trainers.patience import patiently
from trainers.publishing import Publisher
from trainers.reporting import Reporter
from trainers.supervision import Message, numbers, supervise
from trainers.workspace import Workspace

log = structlog.get_logger()


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, as the trainer will be told."""

    kind: "worker_pb2.AttemptOutcome.ValueType"
    error: str = ""
    version: int = 0


SUCCEEDED = worker_pb2.ATTEMPT_OUTCOME_SUCCEEDED
RETRYABLE = worker_pb2.ATTEMPT_OUTCOME_RETRYABLE
PERMANENT = worker_pb2.ATTEMPT_OUTCOME_PERMANENT
CANCELLED = worker_pb2.ATTEMPT_OUTCOME_CANCELLED
RELEASED = worker_pb2.ATTEMPT_OUTCOME_RELEASED


@dataclass(frozen=True)
class ChildPolicy:
    """How the training process is run.

    Attributes:
        command: Program and first arguments.
        stall_timeout_s: It is killed when it is silent for this long, seconds.
        stop_grace_s: Time between SIGTERM and SIGKILL, seconds.
    """

    command: Sequence[str]
    stall_timeout_s: float
    stop_grace_s: float


class Attempt:
    """One attempt.

    Args:
        job: As it was claimed.
        number: Of the attempt.
        reporter: Tells the trainer.
        registry: The registry's client.
        workspace: Where files are kept.
        child: How the training process is run.
    """

    def __init__(
        self,
        *,
        job: trainer_pb2.Job,
        number: int,
        reporter: Reporter,
        registry: RegistryClient,
        workspace: Workspace,
        child: ChildPolicy,
    ) -> None:
        self._job = job
        self._number = number
        self._reporter = reporter
        self._registry = registry
        self._workspace = workspace
        self._child = child
        self._experiment = ExperimentLog(registry, job, number)
        self._epoch_times = EpochTimes(job.spec.family)
        self._released = asyncio.Event()

    def release(self) -> None:
        """Give the job up, because the worker is to stop."""
        self._released.set()

    async def run(self) -> Outcome | None:
        """Train and publish; returns how it ended, None if the attempt was over before: another one has begun or the job has ended."""
        work = asyncio.create_task(self._work())
        reports = asyncio.create_task(self._reporter.run())
        cancelled = asyncio.create_task(self._reporter.cancel_requested.wait())
        released = asyncio.create_task(self._released.wait())
        timeout_s = self._job.spec.attempt_timeout.ToTimedelta().total_seconds()
        tasks = (work, reports, cancelled, released)
        try:
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return _outcome(work)
            if reports.done():
                log.warning("stopping: the attempt is over", reason=str(reports.exception()))
                return None
            if cancelled.done():
                return Outcome(CANCELLED)
            if released.done():
                return Outcome(RELEASED, "the worker was stopped")
            return Outcome(RETRYABLE, f"took longer than {timeout_s:g} s")
        finally:
            # The work first: until its process has ended, the leases are kept.
            for task in tasks:
                task.cancel()
                await asyncio.wait({task})

    async def _work(self) -> Outcome:
        directory = self._workspace.begin_attempt(self._job.id, self._number)
        inputs = await self._fetch_inputs()
        await self._reporter.tell_experiment(await self._experiment.begin())
        await asyncio.to_thread(self._write_job, directory, inputs)
        writing = asyncio.create_task(self._experiment.write())
        try:
            with tracer.start_as_current_span("train", attributes={"tessera.job.id": self._job.id, "tessera.attempt": self._number}):
                ending = await supervise(
                    self._child.command,
                    directory,
                    self._on_message,
                    stall_timeout_s=self._child.stall_timeout_s,
                    stop_grace_s=self._child.stop_grace_s,
                )
            await self._reporter.flush()
            if ending.error:
                return Outcome(PERMANENT if ending.permanent else RETRYABLE, ending.error)
            self._experiment.close()
            await writing
        finally:
            writing.cancel()
            await asyncio.wait({writing})
        await self._reporter.tell_phase("publish")
        publisher = Publisher(self._registry, self._job, self._number)
        return Outcome(SUCCEEDED, version=await publisher.publish(directory / "artifact", self._experiment.id, ending.metrics))

    async def _fetch_inputs(self) -> dict[str, Path]:
        """Download the inputs that are not there from an earlier attempt, and return their paths by name."""
        await self._reporter.tell_phase("prepare")
        paths = {}
        for file in self._job.spec.inputs:
            ref = BlobRef(file.sha256, file.size_bytes)
            path = self._workspace.input_file(self._job.id, file.sha256)
            if not path.exists() or await asyncio.to_thread(BlobRef.of_file, path) != ref:
                await patiently("download", partial(self._registry.download_file, ref, path))
            paths[file.name] = path
        return paths

    def _write_job(self, directory: Path, inputs: dict[str, Path]) -> None:
        spec = self._job.spec
        checkpoint = self._workspace.newest_checkpoint(self._job.id, before=self._number)
        job = {
            "job_id": self._job.id,
            "attempt": self._number,
            "family": spec.family,
            "architecture": spec.architecture,
            "model": spec.model,
            "name": spec.name,
            "model_config": _whole(json_format.MessageToDict(spec.model_config)),
            "hyperparameters": _whole(json_format.MessageToDict(spec.hyperparameters)),
            "inputs": {name: str(path) for name, path in inputs.items()},
            "input_digests": {file.name: file.sha256 for file in spec.inputs},
            "experiment_id": self._experiment.id,
            "resume_from": str(checkpoint) if checkpoint else None,
        }
        (directory / "job.json").write_text(json.dumps(job, indent=1))

    def _on_message(self, message: Message) -> None:
        if message["type"] == "progress":
            self._reporter.tell_progress(message)
            if message.get("phase") == "train":
                self._epoch_times.train()
        elif message["type"] == "resumed":
            epoch = int(message.get("epoch", 0))
            self._epoch_times.resumed(epoch)
            self._reporter.tell_resumed(epoch)
        elif message["type"] == "epoch":
            epoch, metrics = int(message.get("epoch", 0)), numbers(message.get("metrics"))
            self._epoch_times.finished(epoch)
            self._experiment.add(epoch, metrics)
            self._reporter.tell_epoch(epoch, metrics)


def _outcome(work: asyncio.Task[Outcome]) -> Outcome | None:
    """Return what the work came to, whether it returned or raised."""
    error = work.exception()
    if error is None:
        return work.result()
    if isinstance(error, StaleFenceError):
        log.warning("stopping: a later attempt has begun", reason=error.message)
        return None
    if isinstance(error, InvalidArgumentError | NotFoundError):
        return Outcome(PERMANENT, error.message)
    if isinstance(error, TesseraError | OSError):
        return Outcome(RETRYABLE, str(error))
    log.error("the attempt failed unexpectedly", exc_info=error)
    return Outcome(RETRYABLE, f"unexpected error in the worker: {error!r}")


def _whole(value: Any) -> Any:
    """Return JSON from a protobuf Struct, which knows only floats, with whole numbers as such."""
    if isinstance(value, dict):
        return {key: _whole(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
