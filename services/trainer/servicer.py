"""The trainer's two services over gRPC: thin adapters that read requests and write answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.trainer.attempts import Attempts
from services.trainer.dispatcher import Dispatcher
from services.trainer.families import Families
from services.trainer.intake import Intake
from services.trainer.jobs import Jobs
from services.trainer.tables import Outcome
from services.trainer.watch import JobWatch
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.api.trainer.v1 import trainer_pb2_grpc, worker_pb2, worker_pb2_grpc
from tessera.errors import InvalidArgumentError
from tessera.rpc.auth import Role
from tessera.times import to_duration

TRAINER_ROLES = {
    "ListFamilies": Role.READER,
    "SubmitJob": Role.PUBLISHER,
    "GetJob": Role.READER,
    "ListJobs": Role.READER,
    "CancelJob": Role.PUBLISHER,
    "WatchJob": Role.READER,
}
WORKER_ROLES = dict.fromkeys(("RegisterWorker", "ClaimJob", "ReportProgress", "FinishAttempt"), Role.PUBLISHER)

Context = grpc.aio.ServicerContext[Any, Any]
REPORTED = {int(outcome) for outcome in Outcome if outcome is not Outcome.LOST}


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """What people ask."""

    def __init__(self, *, intake: Intake, jobs: Jobs, families: Families, watch: JobWatch, dispatcher: Dispatcher) -> None:
        self._intake = intake
        self._jobs = jobs
        self._families = families
        self._watch = watch
        self._dispatcher = dispatcher

    async def ListFamilies(self, request: pb.ListFamiliesRequest, context: Context) -> pb.ListFamiliesResponse:  # noqa: N802
        """Answer all families."""
        return pb.ListFamiliesResponse(families=await asyncio.to_thread(self._families.list))

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Context) -> pb.SubmitJobResponse:  # noqa: N802
        """Queue a job."""
        job, created = await self._intake.submit(request.spec, request.idempotency_key)
        self._dispatcher.wake()
        return pb.SubmitJobResponse(job=job, created=created)

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:  # noqa: N802
        """Answer one job."""
        return pb.GetJobResponse(job=await asyncio.to_thread(self._jobs.get, request.id))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:  # noqa: N802
        """Answer a page of jobs."""
        jobs, token = await asyncio.to_thread(
            self._jobs.list, page_size=request.page_size, page_token=request.page_token, state=request.state, model=request.model
        )
        return pb.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:  # noqa: N802
        """Ask a job to stop."""
        job = await asyncio.to_thread(self._jobs.cancel, request.id)
        self._watch.tell(job.id)
        self._dispatcher.wake()
        return pb.CancelJobResponse(job=job)

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:  # noqa: N802
        """Stream a job until it has ended."""
        async for job in self._watch.watch(request.id):
            yield pb.WatchJobResponse(job=job)


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """What workers say."""

    def __init__(self, *, attempts: Attempts, families: Families, watch: JobWatch, dispatcher: Dispatcher, queue_lease_s: float) -> None:
        self._attempts = attempts
        self._families = families
        self._watch = watch
        self._dispatcher = dispatcher
        self._queue_lease_s = queue_lease_s

    async def RegisterWorker(  # noqa: N802
        self, request: worker_pb2.RegisterWorkerRequest, context: Context
    ) -> worker_pb2.RegisterWorkerResponse:
        """Keep what a worker announces."""
        await asyncio.to_thread(self._families.announce, request.worker, request.families)
        return worker_pb2.RegisterWorkerResponse(
            heartbeat_interval=to_duration(self._attempts.lease_s), queue_lease=to_duration(self._queue_lease_s)
        )

    async def ClaimJob(self, request: worker_pb2.ClaimJobRequest, context: Context) -> worker_pb2.ClaimJobResponse:  # noqa: N802
        """Begin an attempt."""
        job, attempt = await asyncio.to_thread(self._attempts.claim, request.job_id, request.worker, request.delivery_count)
        self._watch.tell(job.id)
        return worker_pb2.ClaimJobResponse(job=job, attempt=attempt, lease=to_duration(self._attempts.lease_s))

    async def ReportProgress(  # noqa: N802
        self, request: worker_pb2.ReportProgressRequest, context: Context
    ) -> worker_pb2.ReportProgressResponse:
        """Renew an attempt."""
        cancel_requested = await asyncio.to_thread(
            self._attempts.report,
            request.job_id,
            request.attempt,
            progress=request.progress if request.HasField("progress") else None,
            resumed_from_epoch=request.resumed_from_epoch if request.HasField("resumed_from_epoch") else None,
            experiment_id=request.experiment_id,
        )
        self._watch.tell(request.job_id)
        return worker_pb2.ReportProgressResponse(cancel_requested=cancel_requested)

    async def FinishAttempt(  # noqa: N802
        self, request: worker_pb2.FinishAttemptRequest, context: Context
    ) -> worker_pb2.FinishAttemptResponse:
        """End an attempt."""
        if request.outcome not in REPORTED:
            raise InvalidArgumentError(f"outcome {request.outcome} is not one that a worker can report", field="outcome")
        job = await asyncio.to_thread(
            self._attempts.finish, request.job_id, request.attempt, Outcome(request.outcome), error=request.error, version=request.version
        )
        self._watch.tell(job.id)
        self._dispatcher.wake()
        return worker_pb2.FinishAttemptResponse(job=job)
