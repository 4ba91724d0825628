"""Attempts: leases, fencing, retries and what becomes of a job, on SQLite and PostgreSQL."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from services.trainer.tables import Outcome, State, Table
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import FailedPreconditionError, NotFoundError, StaleFenceError
from tests.fixtures.trainer import TrainerCore

PAST_THE_LEASE = timedelta(seconds=31)


def test_the_migrations_make_exactly_the_tables(trainer_core: TrainerCore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with trainer_core.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
        assert "jobs" in sa.inspect(connection).get_table_names()


def test_a_claim_begins_the_next_attempt_and_a_success_ends_the_job(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    claimed, number = trainer_core.attempts.claim(job.id, "w1", 1)
    assert (claimed.state, number) == (pb.JOB_STATE_RUNNING, 1)
    progress = pb.Progress(epoch=3, epochs=9, loss=float("nan"), metrics={"top1": 0.5}, phase="train")
    assert not trainer_core.attempts.report(job.id, 1, progress=progress, resumed_from_epoch=2, experiment_id="e1")
    ended = trainer_core.attempts.finish(job.id, 1, Outcome.SUCCEEDED, version=4)
    assert (ended.state, ended.version, ended.experiment_id) == (pb.JOB_STATE_SUCCEEDED, 4, "e1")
    assert (ended.progress.epoch, ended.attempts[0].resumed_from_epoch) == (3, 2)
    assert ended.HasField("finish_time") and ended.attempts[0].HasField("finish_time")


def test_a_live_attempt_is_not_taken_over_but_its_own_worker_may_ask_again(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w1", 1)
    with pytest.raises(FailedPreconditionError, match="by worker w1 is alive"):
        trainer_core.attempts.claim(job.id, "w2", 2)
    assert trainer_core.attempts.claim(job.id, "w1", 1)[1] == 1
    with pytest.raises(FailedPreconditionError, match="is alive"):
        trainer_core.attempts.claim(job.id, "w1", 2)


def test_a_passed_lease_lets_another_worker_in_and_shuts_the_first_out(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w1", 1)
    trainer_core.clock.advance(PAST_THE_LEASE)
    claimed, number = trainer_core.attempts.claim(job.id, "w2", 2)
    assert number == 2
    assert claimed.attempts[0].error == "worker w1 was not heard of for 30 s"
    with pytest.raises(StaleFenceError, match="attempt 2 has begun"):
        trainer_core.attempts.report(job.id, 1)
    with pytest.raises(StaleFenceError):
        trainer_core.attempts.finish(job.id, 1, Outcome.SUCCEEDED, version=1)
    assert not trainer_core.attempts.report(job.id, 2)


def test_a_lost_attempt_may_come_back_until_another_one_begins(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit(max_attempts=2)
    trainer_core.attempts.claim(job.id, "w1", 1)
    trainer_core.clock.advance(PAST_THE_LEASE)
    assert trainer_core.attempts.lose_passed() == [job.id]
    assert trainer_core.jobs.get(job.id).state == pb.JOB_STATE_QUEUED
    assert not trainer_core.attempts.report(job.id, 1)
    back = trainer_core.jobs.get(job.id)
    assert (back.state, back.attempts[0].error, back.attempts[0].HasField("finish_time")) == (pb.JOB_STATE_RUNNING, "", False)
    trainer_core.clock.advance(PAST_THE_LEASE)
    trainer_core.attempts.lose_passed()
    assert trainer_core.attempts.finish(job.id, 1, Outcome.SUCCEEDED, version=1).state == pb.JOB_STATE_SUCCEEDED


def test_reports_keep_the_lease_and_a_restart_of_the_trainer_renews_all(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w1", 1)
    for _ in range(3):
        trainer_core.clock.advance(timedelta(seconds=20))
        trainer_core.attempts.report(job.id, 1)
        assert trainer_core.attempts.lose_passed() == []
    trainer_core.clock.advance(timedelta(hours=1))
    trainer_core.attempts.renew_all()
    assert trainer_core.attempts.lose_passed() == []


def test_retries_are_counted_delayed_and_end_in_a_failure_that_says_so(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit(max_attempts=2)
    trainer_core.attempts.claim(job.id, "w1", 1)
    again = trainer_core.attempts.finish(job.id, 1, Outcome.RETRYABLE, error="boom")
    assert (again.state, again.attempts[0].error) == (pb.JOB_STATE_QUEUED, "boom")
    assert trainer_core.outbox.list_to_dispatch() == []
    trainer_core.clock.advance(timedelta(seconds=5))
    assert [task.job_id for task in trainer_core.outbox.list_to_dispatch()] == [job.id]
    trainer_core.attempts.claim(job.id, "w1", 1)
    failed = trainer_core.attempts.finish(job.id, 2, Outcome.RETRYABLE, error="boom")
    assert (failed.state, failed.error) == (pb.JOB_STATE_FAILED, "boom (attempt 2 of 2)")
    assert [task.job_id for task in trainer_core.outbox.list_dead_letters()] == [job.id]


def test_an_attempt_that_was_given_back_does_not_count_and_is_dispatched_at_once(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit(max_attempts=1)
    for number in (1, 2, 3):
        trainer_core.attempts.claim(job.id, f"w{number}", 1)
        assert trainer_core.attempts.finish(job.id, number, Outcome.RELEASED, error="stopped").state == pb.JOB_STATE_QUEUED
        assert len(trainer_core.outbox.list_to_dispatch()) == 1


def test_a_permanent_error_ends_the_job_whatever_attempts_are_left(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w1", 1)
    failed = trainer_core.attempts.finish(job.id, 1, Outcome.PERMANENT, error="bad picture")
    assert (failed.state, failed.error) == (pb.JOB_STATE_FAILED, "bad picture")


def test_finishing_twice_with_the_same_outcome_changes_nothing(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w1", 1)
    first = trainer_core.attempts.finish(job.id, 1, Outcome.RETRYABLE, error="boom")
    trainer_core.clock.advance(timedelta(seconds=1))
    assert trainer_core.attempts.finish(job.id, 1, Outcome.RETRYABLE, error="boom") == first
    with pytest.raises(StaleFenceError, match="has ended"):
        trainer_core.attempts.finish(job.id, 1, Outcome.SUCCEEDED, version=1)


def test_a_cancelled_job_tells_its_worker_and_ends_cancelled_however_the_attempt_ends(trainer_core: TrainerCore) -> None:
    for outcome in (Outcome.CANCELLED, Outcome.RETRYABLE, Outcome.RELEASED):
        job = trainer_core.submit()
        trainer_core.attempts.claim(job.id, "w1", 1)
        trainer_core.jobs.cancel(job.id)
        assert trainer_core.attempts.report(job.id, 1)
        assert trainer_core.attempts.finish(job.id, 1, outcome).state == pb.JOB_STATE_CANCELLED
    lost = trainer_core.submit()
    trainer_core.attempts.claim(lost.id, "w1", 1)
    trainer_core.jobs.cancel(lost.id)
    trainer_core.clock.advance(PAST_THE_LEASE)
    trainer_core.attempts.lose_passed()
    assert trainer_core.jobs.get(lost.id).state == pb.JOB_STATE_CANCELLED


def test_an_ended_or_unknown_job_cannot_be_claimed(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.jobs.cancel(job.id)
    with pytest.raises(FailedPreconditionError, match="is over: CANCELLED"):
        trainer_core.attempts.claim(job.id, "w1", 1)
    with pytest.raises(NotFoundError, match="no job 'nope'"):
        trainer_core.attempts.claim("nope", "w1", 1)


def test_what_a_claim_finds_out_about_a_lost_attempt_is_kept_though_it_is_refused(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit(max_attempts=1)
    trainer_core.attempts.claim(job.id, "w1", 1)
    trainer_core.clock.advance(PAST_THE_LEASE)
    with pytest.raises(FailedPreconditionError, match="is over: FAILED"):
        trainer_core.attempts.claim(job.id, "w2", 2)
    assert trainer_core.jobs.get(job.id).error == "worker w1 was not heard of for 30 s (attempt 1 of 1)"


@pytest.mark.parametrize(
    ("cancelled", "version", "state", "error"),
    [
        (False, 0, pb.JOB_STATE_FAILED, "boom"),
        (True, 0, pb.JOB_STATE_CANCELLED, ""),
        (False, 7, pb.JOB_STATE_SUCCEEDED, ""),
        (True, 7, pb.JOB_STATE_SUCCEEDED, ""),
    ],
)
def test_a_job_with_an_experiment_ends_without_a_version_only_when_the_registry_knows_of_none(
    trainer_core: TrainerCore, cancelled: bool, version: int, state: int, error: str
) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w1", 1)
    trainer_core.attempts.report(job.id, 1, experiment_id="e1")
    if cancelled:
        trainer_core.jobs.cancel(job.id)
    ending = trainer_core.attempts.finish(job.id, 1, Outcome.PERMANENT, error="boom")
    assert (ending.state, ending.error, ending.HasField("finish_time")) == (pb.JOB_STATE_RUNNING, "", False)
    with pytest.raises(StaleFenceError, match="is over: ENDING"):
        trainer_core.attempts.report(job.id, 1)
    with pytest.raises(FailedPreconditionError, match="is over: ENDING"):
        trainer_core.attempts.claim(job.id, "w2", 1)
    assert trainer_core.jobs.cancel(job.id) == ending
    assert trainer_core.jobs.list(state=State.RUNNING)[0] == [ending]
    trainer_core.clock.advance(PAST_THE_LEASE)
    assert trainer_core.attempts.lose_passed() == []
    assert (trainer_core.outbox.list_to_withdraw(), trainer_core.outbox.list_dead_letters()) == ([], [])
    assert [(task.job_id, task.attempt, task.cancel_requested) for task in trainer_core.outbox.list_ending()] == [(job.id, 1, cancelled)]
    for _ in range(2):
        trainer_core.jobs.settle(job.id, version)
    ended = trainer_core.jobs.get(job.id)
    assert (ended.state, ended.version, ended.error, ended.HasField("finish_time")) == (state, version, error, True)
    assert trainer_core.outbox.list_ending() == []


def test_a_job_that_waits_for_a_retry_is_cancelled_only_when_the_registry_knows_of_no_version(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w1", 1)
    trainer_core.attempts.report(job.id, 1, experiment_id="e1")
    trainer_core.attempts.finish(job.id, 1, Outcome.RETRYABLE, error="boom")
    assert trainer_core.jobs.cancel(job.id).state == pb.JOB_STATE_RUNNING
    trainer_core.clock.advance(PAST_THE_LEASE)
    assert trainer_core.outbox.list_to_dispatch() == []
    trainer_core.jobs.settle(job.id, 0)
    assert trainer_core.jobs.get(job.id).state == pb.JOB_STATE_CANCELLED
