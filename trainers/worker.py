"""The training worker: `python -m trainers.worker`.

A supervisor: it takes jobs from the queue, runs each in a child process, keeps the leases, and publishes what comes of it. It loads no
tensor library itself, so that no training can stall or kill it.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog
from google.protobuf import json_format
from opentelemetry.trace import SpanKind

from tessera import telemetry
from tessera.api.trainer.v1 import trainer_pb2, worker_pb2
from tessera.api.trainer.v1.worker_pb2_grpc import WorkerServiceStub
from tessera.client.calls import call, pause_s
from tessera.client.registry import RegistryClient
from tessera.client.trainer import FINISHED, TrainerClient
from tessera.errors import (
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    StaleFenceError,
    TesseraError,
    UnauthenticatedError,
    UnavailableError,
)
from tessera.lifecycle import launch, run
from tessera.queue import Delivery, WorkQueue, check_redis, connect, training_queue
from tessera.rpc.channel import open_channel
from trainers.attempt import Attempt, ChildPolicy, Outcome
from trainers.lineage import fill_in_defaults
from trainers.patience import patiently
from trainers.reporting import Reporter
from trainers.settings import WorkerSettings
from trainers.workspace import Workspace

if TYPE_CHECKING:
    from tessera.api.trainer.v1.worker_pb2_grpc import WorkerServiceAsyncStub

CHILD = (sys.executable, "-m", "trainers.child")
DESCRIBE = (sys.executable, "-m", "trainers.describe")
_TAKE_S = 1.0
_REFUSED_PAUSE_S = 5.0

log = structlog.get_logger()


class Worker:
    """A component that takes one job after the other.

    Args:
        settings: Of the worker.
        child_command: Program that trains.
        describe_command: Program that prints what it can train.
    """

    name = "worker"

    def __init__(
        self, settings: WorkerSettings, *, child_command: Sequence[str] = CHILD, describe_command: Sequence[str] = DESCRIBE
    ) -> None:
        self._settings = settings
        self._describe_command = describe_command
        self._child = ChildPolicy(child_command, settings.stall_timeout_s, settings.stop_grace_s)
        self._workspace = Workspace(settings.work_dir)
        self._attempt: Attempt | None = None
        self._stopping = False
        self._unready = "the trainer does not know this worker yet"
        self._trouble = ""

    async def start(self) -> None:
        """Learn what can be trained and begin to work; raises FailedPreconditionError if that cannot be learnt."""
        self._redis = connect(self._settings.redis_url.get_secret_value())
        self._channels = [
            open_channel(self._settings.trainer_address, self._settings.trainer),
            open_channel(self._settings.registry_address, self._settings.registry),
        ]
        self._stub: WorkerServiceAsyncStub = WorkerServiceStub(self._channels[0])
        self._trainer = TrainerClient(self._channels[0], self._settings.trainer.timeout_s)
        self._registry = RegistryClient(self._channels[1], self._settings.registry.timeout_s)
        self._families = await describe_families(self._describe_command)
        self._working = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Give up the job in hand, so that another worker goes on with it, and end."""
        self._stopping = True
        if self._attempt is not None:
            self._attempt.release()
            await asyncio.wait({self._working}, timeout=self._settings.shutdown_grace_s / 2)
        self._working.cancel()
        await asyncio.wait({self._working})
        await self._redis.aclose()
        for channel in self._channels:
            await channel.close()

    async def check(self) -> None:
        """Raise a TesseraError until the trainer knows this worker, and while Redis is away or there is no room to work in."""
        if self._unready:
            raise UnavailableError(self._unready)
        await asyncio.to_thread(self._workspace.check)
        await check_redis(self._redis)

    async def _run(self) -> None:
        response = await self._join()
        lease_s = response.queue_lease.ToTimedelta().total_seconds()
        queues = [training_queue(self._redis, family.name, lease_s=lease_s) for family in self._families]
        announcing = asyncio.create_task(self._announce(response.heartbeat_interval.ToTimedelta().total_seconds()))
        try:
            while not self._stopping:
                for queue in queues:
                    await self._undisturbed(partial(self._take_one, queue, _TAKE_S / len(queues)))
        finally:
            announcing.cancel()
            await asyncio.wait({announcing})

    async def _join(self) -> worker_pb2.RegisterWorkerResponse:
        """Register, however long that takes; a refusal (no token, a role that is too low) is something that a person has to mend."""
        while True:
            try:
                response = await patiently("register", self._register)
            except TesseraError as error:
                self._refused(error)
                await asyncio.sleep(_REFUSED_PAUSE_S)
            else:
                self._unready = ""
                return response

    def _refused(self, error: TesseraError) -> None:
        refused = f"the trainer refuses this worker: {error.message}"
        if refused != self._unready:
            log.error("the trainer refuses this worker, will try again", reason=error.message)
        self._unready = refused

    async def _undisturbed(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step; whatever goes wrong in it, the worker goes on after a pause."""
        try:
            await step()
            self._trouble = ""
        except TesseraError as error:
            if error.message != self._trouble:  # once, not with every step
                log.warning("cannot work now, will try again", reason=error.message)
            self._trouble = error.message
            await asyncio.sleep(pause_s(3))
        except Exception:
            log.exception("unexpected error, going on")
            await asyncio.sleep(pause_s(5))

    async def _register(self) -> worker_pb2.RegisterWorkerResponse:
        request = worker_pb2.RegisterWorkerRequest(worker=self._settings.name, families=self._families)
        return await call(self._stub.RegisterWorker, request, timeout_s=self._settings.trainer.timeout_s)

    async def _announce(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s / 2)
            try:
                await self._register()
            except (UnauthenticatedError, PermissionDeniedError) as error:  # its token was taken back
                self._refused(error)
            except TesseraError as error:
                log.debug("cannot announce families", reason=error.message)
            else:
                self._unready = ""

    async def _take_one(self, queue: WorkQueue, block_s: float) -> None:
        await asyncio.to_thread(self._workspace.check)  # a job that finds no room is better left to another worker
        delivery = await queue.take(self._settings.name, block_s)
        if delivery is None or self._stopping:
            return
        caller = telemetry.extract(delivery.fields)
        with telemetry.tracer.start_as_current_span("train job", context=caller, kind=SpanKind.CONSUMER):
            if "job_id" in delivery.fields:
                await self._handle(queue, delivery)
            else:
                await queue.dead_letter(delivery.fields, "the entry names no job")
                await queue.ack(delivery.id)
        await self._clean()

    async def _handle(self, queue: WorkQueue, delivery: Delivery) -> None:
        job_id = delivery.fields["job_id"]
        request = worker_pb2.ClaimJobRequest(job_id=job_id, worker=self._settings.name, delivery_count=delivery.delivery_count)
        try:
            claim = await patiently("claim job", partial(call, self._stub.ClaimJob, request, timeout_s=10.0))
        except (FailedPreconditionError, NotFoundError) as error:
            log.info("nothing to do for this entry", job=job_id, reason=error.message)
            await queue.ack(delivery.id)
            return
        for family in self._families:
            if family.name == claim.job.spec.family:
                fill_in_defaults(claim.job.spec, family)
        log.info("attempt begins", job=job_id, attempt=claim.attempt)
        lease_s = claim.lease.ToTimedelta().total_seconds()
        self._attempt = attempt = Attempt(
            job=claim.job,
            number=claim.attempt,
            reporter=Reporter(self._stub, queue, delivery, attempt=claim.attempt, lease_s=lease_s),
            registry=self._registry,
            workspace=self._workspace,
            child=self._child,
        )
        try:
            if self._stopping:
                attempt.release()
            outcome = await attempt.run()
            if outcome is not None:
                await self._finish(job_id, claim.attempt, outcome, longest_pause_s=lease_s / 4)
                await queue.ack(delivery.id)
        finally:
            self._attempt = None

    async def _finish(self, job_id: str, attempt: int, outcome: Outcome, *, longest_pause_s: float) -> None:
        """Tell the trainer how an attempt ended, however long that takes."""
        request = worker_pb2.FinishAttemptRequest(
            job_id=job_id, attempt=attempt, outcome=outcome.kind, error=outcome.error, version=outcome.version
        )
        try:
            finish = partial(call, self._stub.FinishAttempt, request, timeout_s=10.0)
            await patiently("finish attempt", finish, longest_pause_s=longest_pause_s)
        except StaleFenceError as error:
            log.warning("the attempt was over already", job=job_id, attempt=attempt, reason=error.message)
        kind = worker_pb2.AttemptOutcome.Name(outcome.kind).removeprefix("ATTEMPT_OUTCOME_")
        log.info("attempt ended", job=job_id, attempt=attempt, outcome=kind, error=outcome.error, version=outcome.version)

    async def _clean(self) -> None:
        """Remove what is kept of jobs that ended long ago."""
        for job_id in await asyncio.to_thread(lambda: list(self._workspace.untouched_jobs(self._settings.keep_jobs_s))):
            if await self._has_ended(job_id):
                await asyncio.to_thread(self._workspace.remove, job_id)

    async def _has_ended(self, job_id: str) -> bool:
        try:
            return (await self._trainer.get_job(job_id)).state in FINISHED
        except NotFoundError:
            return True


async def describe_families(command: Sequence[str]) -> list[trainer_pb2.Family]:
    """Return the families that a program prints as JSON; it is a process of its own because they load a tensor library.

    Raises:
        FailedPreconditionError: It failed, or printed something else.
    """
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    try:
        if process.returncode != 0:
            raise ValueError(f"exit code {process.returncode}")
        return [json_format.ParseDict(family, trainer_pb2.Family()) for family in json.loads(printed)]
    except (ValueError, TypeError, json_format.ParseError) as error:
        raise FailedPreconditionError(f"{' '.join(command)} does not tell what can be trained: {error}") from error


async def work(settings: WorkerSettings) -> None:
    """Work until SIGTERM."""
    await run(settings, components=[Worker(settings)])


def main() -> None:
    """Read the settings and work until told to stop."""
    launch(WorkerSettings, "worker", work)


if __name__ == "__main__":
    main()
