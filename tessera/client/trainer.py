"""The trainer: families and jobs."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc

from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.api.trainer.v1.trainer_pb2_grpc import TrainerServiceStub
from tessera.client.calls import call, pages
from tessera.client.streams import resumed

if TYPE_CHECKING:
    from tessera.api.trainer.v1.trainer_pb2_grpc import TrainerServiceAsyncStub

FINISHED = frozenset({pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED})
"""States in which a job stays."""

PATIENCE_S = 60.0
"""A trainer that restarts is back much earlier."""

WATCH_IDLE_TIMEOUT_S = 600.0
"""A queued job may be silent for long; a broken connection is found by keepalive much earlier than this."""


class TrainerClient:
    """Typed calls to the trainer.

    Every method raises the `tessera.errors.TesseraError` that matches the status, as `RegistryClient` does.

    Args:
        channel: From `tessera.rpc.channel.open_channel`; the caller closes it.
        timeout_s: Deadline of one call, retries included.

    Example:
        response = await trainer.submit_job(spec, idempotency_key="holiday-photo-1")
        async for job in trainer.watch_job(response.job.id):
            print(job.progress.epoch, job.progress.loss)
    """

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float = 10.0) -> None:
        self.stub: TrainerServiceAsyncStub = TrainerServiceStub(channel)
        self.timeout_s = timeout_s

    async def list_families(self) -> list[pb.Family]:
        """Return the families that workers have announced, with the JSON schemas of their settings."""
        response = await call(self.stub.ListFamilies, pb.ListFamiliesRequest(), timeout_s=self.timeout_s)
        return list(response.families)

    async def submit_job(self, spec: pb.JobSpec, *, idempotency_key: str = "") -> pb.SubmitJobResponse:
        """Queue a job. The same key again answers the same job, with `created` False.

        Raises:
            InvalidArgumentError: Unknown family, architecture or hyperparameter (the message lists the known ones), or a bad value.
            NotFoundError: An input is not stored in the registry.
        """
        request = pb.SubmitJobRequest(spec=spec, idempotency_key=idempotency_key)
        return await call(self.stub.SubmitJob, request, timeout_s=self.timeout_s, repeatable=bool(idempotency_key))

    async def get_job(self, job_id: str) -> pb.Job:
        """Return a job with its attempts. Raises NotFoundError."""
        return (await call(self.stub.GetJob, pb.GetJobRequest(id=job_id), timeout_s=self.timeout_s)).job

    async def list_jobs(self, *, state: "pb.JobState.ValueType" = pb.JOB_STATE_UNSPECIFIED, model: str = "") -> AsyncIterator[pb.Job]:
        """Yield the jobs, newest first; all, or those in one state or of one model."""

        async def fetch(token: str) -> pb.ListJobsResponse:
            request = pb.ListJobsRequest(state=state, model=model, page_token=token)
            return await call(self.stub.ListJobs, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for job in page.jobs:
                yield job

    async def cancel_job(self, job_id: str) -> pb.Job:
        """Ask a job to stop and return it as it stands. A finished job stays as it is. Raises NotFoundError."""
        return (await call(self.stub.CancelJob, pb.CancelJobRequest(id=job_id), timeout_s=self.timeout_s, repeatable=True)).job

    async def watch_job(self, job_id: str) -> AsyncGenerator[pb.Job, None]:
        """Yield the job as it stands, then again after every change, until it has ended.

        The stream is opened again whenever the trainer goes away.

        Raises:
            NotFoundError: No such job.
            UnavailableError: The trainer has been away for a minute.
        """

        def open_stream() -> grpc.aio.UnaryStreamCall[pb.WatchJobRequest, pb.WatchJobResponse]:
            return self.stub.WatchJob(pb.WatchJobRequest(id=job_id))

        async with aclosing(resumed(open_stream, idle_timeout_s=WATCH_IDLE_TIMEOUT_S, what="job watch", patience_s=PATIENCE_S)) as messages:
            async for message in messages:
                yield message.job
                if message.job.state in FINISHED:
                    return
