"""Jobs as people see them: submitted once, looked at, listed, cancelled."""

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services.trainer.messages import as_json, job_message
from services.trainer.tables import OPEN, Job, State
from services.trainer.transitions import end_job, settle_job
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import AlreadyExistsError, NotFoundError
from tessera.names import check_name
from tessera.sql import reading, writing
from tessera.tables import page_limits
from tessera.texts import check_text
from tessera.times import Clock, now

LONGEST_ID = 256


def find_job(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return the row of a job; with `lock` nobody else changes it before the session ends.

    Raises:
        InvalidArgumentError: That is no id.
        NotFoundError: No such job.
    """
    query = sa.select(Job).where(Job.id == check_text(job_id, "id", LONGEST_ID))
    row = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no job {job_id!r}", field="id")
    return row


class Jobs:
    """The jobs in one database.

    Args:
        engine: The trainer's database.
        clock: Answers the present.
    """

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self._engine = engine
        self._clock = clock

    def find_submitted(self, spec: pb.JobSpec, idempotency_key: str) -> pb.Job | None:
        """Return the job that was submitted under a key, None if there is none or the key is empty.

        Raises:
            AlreadyExistsError: It was submitted with another spec.
        """
        if not idempotency_key:
            return None
        with reading(self._engine) as session:
            row = session.scalars(sa.select(Job).where(Job.idempotency_key == idempotency_key)).one_or_none()
            if row is None:
                return None
            job = job_message(row)
        if job.spec != spec:
            raise AlreadyExistsError(
                f"the idempotency key {idempotency_key!r} was used for job {job.id} with another spec; use a new key for a new job",
                field="idempotency_key",
            )
        return job

    def submit(self, job_id: str, spec: pb.JobSpec, *, idempotency_key: str, trace: dict[str, str]) -> tuple[pb.Job, bool]:
        """Queue a job.

        Args:
            job_id: A new id.
            spec: Valid and complete, from `validation.complete_spec`.
            idempotency_key: The same key again answers the same job; empty for none.
            trace: Trace context that travels with the job to the worker.

        Returns:
            The job, and whether it was made now.

        Raises:
            AlreadyExistsError: The key was used with another spec.
        """
        row = Job(
            id=job_id,
            idempotency_key=idempotency_key or None,
            spec=as_json(spec),
            family=spec.family,
            model=spec.model,
            state=State.QUEUED,
            error="",
            version=0,
            experiment_id="",
            cancel_requested=False,
            max_attempts=spec.max_attempts,
            create_time=self._clock(),
            trace=trace,
            dispatch_time=0,
            dead_letter_due=False,
            inputs_due_time=0 if spec.inputs else None,
        )
        try:
            with writing(self._engine) as session:
                session.add(row)
                session.flush()
                return job_message(row), True
        except sa.exc.IntegrityError:  # the same key at the same time: the database let one through
            job = self.find_submitted(spec, idempotency_key)
            if job is None:
                raise
            return job, False

    def get(self, job_id: str) -> pb.Job:
        """Return a job with its attempts. Raises NotFoundError."""
        with reading(self._engine) as session:
            return job_message(find_job(session, job_id))

    def list(self, *, page_size: int = 0, page_token: str = "", state: int = 0, model: str = "") -> tuple[list[pb.Job], str]:
        """Return a page of jobs, newest first, and the token of the next page (empty on the last).

        Raises:
            InvalidArgumentError: The size is not 0 to 1000, the token is not one of ours, or the model has no valid name.
        """
        limit, before = page_limits(page_size, page_token, "ListJobs")
        query = sa.select(Job).order_by(Job.row.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(Job.row < before)
        if state:
            query = query.where(Job.state.in_([state, State.ENDING] if state == State.RUNNING else [state]))
        if model:
            query = query.where(Job.model == check_name(model, "model"))
        with reading(self._engine) as session:
            rows = list(session.scalars(query))
            return [job_message(row) for row in rows[:limit]], str(rows[limit - 1].row) if len(rows) > limit else ""

    def cancel(self, job_id: str) -> pb.Job:
        """Ask a job to stop and return it: a queued one ends, a running one will be told, one that ends or has ended stays as it is.

        Raises:
            NotFoundError: No such job.
        """
        with writing(self._engine) as session:
            row = find_job(session, job_id, lock=True)
            if row.state in OPEN:
                row.cancel_requested = True
            if row.state == State.QUEUED:
                end_job(row, State.CANCELLED, now=self._clock())
            return job_message(row)

    def settle(self, job_id: str, version: int) -> None:
        """End a job that is ENDING, now that it is known whether a version came of it (0: none). Raises NotFoundError."""
        with writing(self._engine) as session:
            row = find_job(session, job_id, lock=True)
            if row.state == State.ENDING:
                settle_job(row, version, now=self._clock())

    def count_by_state(self) -> dict[State, int]:
        """Return how many jobs are in each state; every state is listed."""
        counts = dict.fromkeys(State, 0)
        with reading(self._engine) as session:
            for state, count in session.execute(sa.select(Job.state, sa.func.count()).group_by(Job.state)):
                counts[State(state)] = count
        return counts
