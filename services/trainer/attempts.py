"""Attempts: the leases under which workers hold jobs.

The number of an attempt is its fencing token: it grows with every claim, and who brings an older one is told to stop. An attempt whose
lease has passed is lost and its job goes back into the queue; until another attempt begins, the lost one may still come back.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services.trainer.jobs import find_job
from services.trainer.messages import as_json, job_message
from services.trainer.tables import OPEN, Job, Outcome, State
from services.trainer.transitions import begin_attempt, end_attempt, newest_number, revive_attempt
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import FailedPreconditionError, StaleFenceError
from tessera.queue import LEASE_LOST
from tessera.sql import reading, writing
from tessera.texts import check_text, clean_text
from tessera.times import Clock, microseconds, now, timedelta_of

LONGEST_NAME = 256
LONGEST_ERROR = 4096
"""Of what a worker reports as the reason of a failure no more is kept, characters."""


class Attempts:
    """The attempts at the jobs in one database.

    Args:
        engine: The trainer's database.
        lease_s: An attempt that is not reported for this long is lost, seconds.
        retry_delay_s: Pause before the first retry, seconds; doubles with every further one, up to 5 minutes.
        clock: Answers the present.
    """

    def __init__(self, engine: Engine, *, lease_s: float, retry_delay_s: float, clock: Clock = now) -> None:
        self.lease_s = lease_s
        self._engine = engine
        self._retry_delay_s = retry_delay_s
        self._clock = clock

    def claim(self, job_id: str, worker: str, delivery_count: int) -> tuple[pb.Job, int]:
        """Begin the next attempt; the same worker and delivery count again answers the attempt that it has begun.

        Returns:
            The job, and the attempt's number.

        Raises:
            InvalidArgumentError: The worker's name is not 1 to 256 characters.
            NotFoundError: No such job.
            FailedPreconditionError: The job has ended, or another attempt at it is alive.
        """
        check_text(worker, "worker", LONGEST_NAME, least=1)
        with writing(self._engine) as session:
            job = find_job(session, job_id, lock=True)
            if job.state == State.RUNNING and self._has_passed(job):
                self._lose(job)
            refusal = _refusal(job, worker, delivery_count)
            if refusal is None:
                if job.state == State.QUEUED:
                    begin_attempt(job, worker, delivery_count, now=self._clock(), lease_until=self._lease_end())
                job.lease_until = self._lease_end()
            session.flush()
            claimed = job_message(job), newest_number(job)
        if refusal is not None:  # raised out here, because what was found out about a lost attempt shall be kept
            raise FailedPreconditionError(refusal, field="job_id")
        return claimed

    def report(
        self,
        job_id: str,
        number: int,
        *,
        progress: pb.Progress | None = None,
        resumed_from_epoch: int | None = None,
        experiment_id: str = "",
    ) -> bool:
        """Renew an attempt and keep what it tells.

        Returns:
            Whether a person asked to stop.

        Raises:
            InvalidArgumentError: The time to go or the experiment's id is none.
            NotFoundError: No such job.
            StaleFenceError: A later attempt has begun, or the job has ended.
        """
        check_text(experiment_id, "experiment_id", LONGEST_NAME)
        if progress is not None:
            timedelta_of(progress.eta, "progress.eta")
        with writing(self._engine) as session:
            job = find_job(session, job_id, lock=True)
            self._check_fence(job, number)
            job.lease_until = self._lease_end()
            if progress is not None:
                job.progress = as_json(progress)
            if resumed_from_epoch is not None:
                job.attempts[-1].resumed_from_epoch = resumed_from_epoch
            if experiment_id:
                job.experiment_id = experiment_id
            return job.cancel_requested

    def finish(self, job_id: str, number: int, outcome: Outcome, *, error: str = "", version: int = 0) -> pb.Job:
        """End an attempt and return the job; repeating it with the same outcome changes nothing.

        Raises:
            NotFoundError: No such job.
            StaleFenceError: A later attempt has begun, or the job has ended otherwise.
        """
        with writing(self._engine) as session:
            job = find_job(session, job_id, lock=True)
            if number == newest_number(job) and job.attempts and job.attempts[-1].outcome == outcome:
                return job_message(job)
            self._check_fence(job, number)
            reason = clean_text(error, LONGEST_ERROR)
            end_attempt(job, outcome, reason, now=self._clock(), retry_delay_s=self._retry_delay_s, version=version)
            return job_message(job)

    def lose_passed(self) -> list[str]:
        """Give up every attempt whose lease has passed, and return the ids of their jobs."""
        with reading(self._engine) as session:
            passed = sa.select(Job.id).where(Job.state == State.RUNNING, Job.lease_until <= self._clock())
            job_ids = list(session.scalars(passed))
        lost = []
        for job_id in job_ids:
            with writing(self._engine) as session:
                job = find_job(session, job_id, lock=True)
                if job.state == State.RUNNING and self._has_passed(job):
                    self._lose(job)
                    lost.append(job_id)
        return lost

    def renew_all(self) -> None:
        """Give every running attempt a full lease: nobody could report while the trainer was down."""
        with writing(self._engine) as session:
            session.execute(sa.update(Job).where(Job.state == State.RUNNING).values(lease_until=self._lease_end()))

    def _check_fence(self, job: Job, number: int) -> None:
        """Make sure that the attempt may go on; one that was lost is taken back if nobody has followed it."""
        newest = newest_number(job)
        if number != newest:
            raise StaleFenceError(f"attempt {number} at job {job.id} is over; attempt {newest} has begun", field="attempt")
        if job.state not in OPEN:
            raise StaleFenceError(f"job {job.id} is over: {State(job.state).name}", field="job_id")
        if job.state == State.QUEUED:
            if job.attempts[-1].outcome != Outcome.LOST:
                raise StaleFenceError(f"attempt {number} at job {job.id} has ended", field="attempt")
            revive_attempt(job, lease_until=self._lease_end())

    def _lose(self, job: Job) -> None:
        LEASE_LOST.inc()
        error = f"worker {job.attempts[-1].worker} was not heard of for {self.lease_s:g} s"
        end_attempt(job, Outcome.LOST, error, now=self._clock(), retry_delay_s=self._retry_delay_s)

    def _has_passed(self, job: Job) -> bool:
        return job.lease_until is not None and job.lease_until <= self._clock()

    def _lease_end(self) -> int:
        return self._clock() + microseconds(self.lease_s)


def _refusal(job: Job, worker: str, delivery_count: int) -> str | None:
    """Return why the job cannot be claimed, None if it can."""
    if job.state not in OPEN:
        return f"job {job.id} is over: {State(job.state).name}"
    if job.state == State.RUNNING:
        attempt = job.attempts[-1]
        if (attempt.worker, attempt.delivery_count) != (worker, delivery_count):
            return f"attempt {attempt.number} at job {job.id} by worker {attempt.worker} is alive"
    return None
