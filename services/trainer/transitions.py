"""What may become of a job: the only place where the state of a job or of an attempt changes to an end or back to the queue."""

from services.trainer import metrics
from services.trainer.tables import Attempt, Job, Outcome, State
from tessera.times import microseconds

COUNTED = frozenset({Outcome.RETRYABLE, Outcome.LOST})
"""Outcomes that use up one of a job's attempts."""

LONGEST_RETRY_DELAY_S = 300.0


def begin_attempt(job: Job, worker: str, delivery_count: int, *, now: int, lease_until: int) -> Attempt:
    """Begin the next attempt at a queued job."""
    attempt = Attempt(
        number=newest_number(job) + 1,
        worker=worker,
        delivery_count=delivery_count,
        resumed_from_epoch=0,
        outcome=None,
        error="",
        start_time=now,
    )
    job.attempts.append(attempt)
    job.state = State.RUNNING
    job.lease_until = lease_until
    job.start_time = job.start_time or now
    return attempt


def end_attempt(job: Job, outcome: Outcome, error: str, *, now: int, retry_delay_s: float, version: int = 0) -> None:
    """End the newest attempt, which runs, and with it the job, or put the job back into the queue."""
    attempt = job.attempts[-1]
    attempt.outcome, attempt.error, attempt.finish_time = outcome, error, now
    job.lease_until = None
    metrics.ATTEMPT_SECONDS.labels(outcome.name).observe((now - attempt.start_time) / 1e6)
    failures = sum(attempt.outcome in COUNTED for attempt in job.attempts)
    if outcome is Outcome.SUCCEEDED:
        end_job(job, State.SUCCEEDED, now=now, version=version)
    elif outcome is Outcome.CANCELLED or job.cancel_requested:
        end_job(job, State.CANCELLED, now=now)
    elif outcome is Outcome.PERMANENT:
        end_job(job, State.FAILED, now=now, error=error)
    elif failures >= job.max_attempts:
        end_job(job, State.FAILED, now=now, error=f"{error} (attempt {failures} of {job.max_attempts})")
    else:
        job.state = State.QUEUED
        delay_s = 0.0 if outcome is Outcome.RELEASED else min(LONGEST_RETRY_DELAY_S, retry_delay_s * 2 ** max(0, failures - 1))
        job.dispatch_time = now + microseconds(delay_s)
        if outcome is not Outcome.LOST:  # a lost worker's entry is still in the stream and will be delivered again
            job.entry_id = None
        metrics.RETRIES.inc()


def revive_attempt(job: Job, *, lease_until: int) -> None:
    """Take back that the newest attempt was lost: its worker has come back before another one began."""
    attempt = job.attempts[-1]
    attempt.outcome, attempt.error, attempt.finish_time = None, "", None
    job.state = State.RUNNING
    job.lease_until = lease_until


def end_job(job: Job, state: State, *, now: int, version: int = 0, error: str = "") -> None:
    """End a job: for good, or, where a version may have come of it that nobody could report, until `settle_job`."""
    job.error = error
    if job.experiment_id and state is not State.SUCCEEDED:
        job.state = State.ENDING
    else:
        _close_job(job, state, now=now, version=version)


def settle_job(job: Job, version: int, *, now: int) -> None:
    """End a job that is ENDING for good.

    A version that exists (not 0) makes it SUCCEEDED, also where the last attempt was lost, or a person asked to stop too late.
    """
    if version:
        _close_job(job, State.SUCCEEDED, now=now, version=version)
    else:
        _close_job(job, State.CANCELLED if job.cancel_requested else State.FAILED, now=now)


def _close_job(job: Job, state: State, *, now: int, version: int = 0) -> None:
    job.state, job.version, job.finish_time = state, version, now
    job.dead_letter_due = state is State.FAILED
    if state is not State.FAILED:
        job.error = ""


def newest_number(job: Job) -> int:
    """Return the number of the newest attempt, which is the fencing token in force; 0 before the first."""
    return job.attempts[-1].number if job.attempts else 0
