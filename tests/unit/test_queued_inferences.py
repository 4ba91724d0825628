"""Queued requests in SQL: submitted once, listed, cancelled, claimed under a fence, retried, expired, forgotten."""

from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import ValidationError

from services.inference.queued.attempts import Claim, Result
from services.inference.queued.progress import Progress
from services.inference.queued.tables import Outcome, Table
from services.inference.settings import InferenceSettings
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.blob_files import BlobRef
from tessera.errors import (
    AlreadyExistsError,
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StaleFenceError,
)
from tests.fixtures.queued import QueuedCore

RESULT = Result(BlobRef.of_bytes(b"outputs"), 3, "onnxruntime")


def dispatched(core: QueuedCore, entry_id: str = "1-0") -> str:
    """Give the one request that waits an entry, and return that."""
    [task] = core.outbox.list_to_dispatch()
    assert core.outbox.set_dispatched(task, entry_id)
    return entry_id


def claimed(core: QueuedCore, inference: pb.Inference, entry_id: str = "1-0", server: str = "a") -> Claim:
    return core.attempts.claim(inference.id, server, dispatched(core, entry_id))


def test_a_database_without_a_redis_is_no_queue() -> None:
    for setting in ({"redis_url": "redis://here"}, {"database_url": "sqlite:////queue.db"}):
        with pytest.raises(ValidationError, match="database_url and redis_url belong together"):
            InferenceSettings(**setting)  # type: ignore[arg-type]


def test_the_migrations_make_the_tables_of_the_code(queued_core: QueuedCore) -> None:
    with queued_core.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_a_key_stands_for_one_request(queued_core: QueuedCore) -> None:
    first = queued_core.submit(key="scan-1")
    assert queued_core.submit(key="scan-1") == first
    with pytest.raises(AlreadyExistsError, match="scan-1"):
        queued_core.submit(key="scan-1", content=b"other inputs")
    with pytest.raises(AlreadyExistsError, match="scan-1"):
        queued_core.submit(key="scan-1", max_attempts=9)
    assert queued_core.submit() != queued_core.submit()


def test_a_request_knows_how_many_of_its_priority_wait_before_it(queued_core: QueuedCore) -> None:
    queued_core.submit(priority=pb.INFERENCE_PRIORITY_HIGH)
    first, second, third = (queued_core.submit() for _ in range(3))
    assert [queued_core.inferences.get(one.id).position for one in (first, second, third)] == [0, 1, 2]
    assert queued_core.inferences.cancel(first.id).state == pb.INFERENCE_STATE_CANCELLED
    assert queued_core.inferences.get(third.id).position == 1


def test_a_list_is_read_page_by_page_newest_first(queued_core: QueuedCore) -> None:
    ids = [queued_core.submit(model=model).id for model in ("a", "b", "a", "a")]
    queued_core.inferences.cancel(ids[3])
    page, token = queued_core.inferences.list(page_size=3)
    assert ([one.id for one in page], bool(token)) == ([ids[3], ids[2], ids[1]], True)
    page, token = queued_core.inferences.list(page_size=3, page_token=token)
    assert ([one.id for one in page], token) == ([ids[0]], "")
    assert [one.id for one in queued_core.inferences.list(model="a", state=pb.INFERENCE_STATE_QUEUED)[0]] == [ids[2], ids[0]]
    for bad in ({"page_size": -1}, {"page_size": 1001}, {"page_token": "x"}, {"model": "../etc"}):
        with pytest.raises(InvalidArgumentError):
            queued_core.inferences.list(**bad)  # type: ignore[arg-type]


def test_a_request_goes_from_a_claim_to_its_result(queued_core: QueuedCore) -> None:
    inference = queued_core.submit()
    claim = claimed(queued_core, inference)
    assert (claim.number, claim.spec.blob) == (1, inference.inputs)
    assert not queued_core.attempts.report(claim, Progress(rows=8, rows_done=4))
    running = queued_core.inferences.get(inference.id)
    assert (running.state, running.rows, running.rows_done, running.attempts[0].server) == (pb.INFERENCE_STATE_RUNNING, 8, 4, "a")
    with pytest.raises(FailedPreconditionError, match="RUNNING"):
        queued_core.inferences.get_succeeded(inference.id)
    queued_core.attempts.finish(claim, Outcome.SUCCEEDED, result=RESULT)
    ended = queued_core.inferences.get_succeeded(inference.id)
    assert (ended.version, ended.runtime, ended.rows_done, ended.result.sha256) == (3, "onnxruntime", 8, RESULT.blob.sha256)
    assert [task.result for task in queued_core.outbox.list_results_to_hold()] == [RESULT.blob.sha256]
    assert [task.inference_id for task in queued_core.outbox.list_inputs_to_release()] == [inference.id]
    assert [task.entry_id for task in queued_core.outbox.list_to_withdraw()] == ["1-0"]
    assert queued_core.inferences.cancel(inference.id).state == pb.INFERENCE_STATE_SUCCEEDED


def test_a_result_that_has_expired_is_said_to_be_gone(queued_core: QueuedCore) -> None:
    inference = queued_core.submit()
    queued_core.attempts.finish(claimed(queued_core, inference), Outcome.SUCCEEDED, result=RESULT)
    queued_core.clock.advance(timedelta(hours=23))
    queued_core.inferences.get_succeeded(inference.id)
    queued_core.clock.advance(timedelta(hours=1))
    with pytest.raises(NotFoundError, match=r"is gone: it was kept until 20"):
        queued_core.inferences.get_succeeded(inference.id)


def test_what_is_delivered_twice_is_computed_by_one(queued_core: QueuedCore) -> None:
    inference = queued_core.submit()
    claim = claimed(queued_core, inference)
    with pytest.raises(ConflictError, match="by server a is alive"):
        queued_core.attempts.claim(inference.id, "b", "1-0")
    with pytest.raises(FailedPreconditionError, match="1-0 counts"):
        queued_core.attempts.claim(inference.id, "b", "0-9")
    queued_core.attempts.finish(claim, Outcome.SUCCEEDED, result=RESULT)
    with pytest.raises(FailedPreconditionError, match="is over: SUCCEEDED"):
        queued_core.attempts.claim(inference.id, "b", "1-0")


def test_an_entry_that_is_delivered_before_it_is_noted_counts(queued_core: QueuedCore) -> None:
    inference = queued_core.submit()
    [task] = queued_core.outbox.list_to_dispatch()
    queued_core.attempts.claim(inference.id, "a", "7-0")
    assert queued_core.outbox.set_dispatched(task, "7-0")


def test_a_server_that_was_given_up_writes_nothing(queued_core: QueuedCore) -> None:
    inference = queued_core.submit()
    zombie = claimed(queued_core, inference)
    queued_core.clock.advance(timedelta(seconds=29))
    assert queued_core.attempts.lose_passed() == []
    queued_core.clock.advance(timedelta(seconds=1))
    assert queued_core.attempts.lose_passed() == [inference.id]
    with pytest.raises(StaleFenceError, match="QUEUED"):
        queued_core.attempts.report(zombie, Progress(rows=1, rows_done=1))
    queued_core.clock.advance(timedelta(seconds=5))
    second = claimed(queued_core, inference, "2-0", server="b")
    for write in (
        lambda: queued_core.attempts.report(zombie, Progress(rows=9, rows_done=9)),
        lambda: queued_core.attempts.finish(zombie, Outcome.SUCCEEDED, result=RESULT),
        lambda: queued_core.attempts.finish(zombie, Outcome.PERMANENT, error="no"),
    ):
        with pytest.raises(StaleFenceError, match="attempt 2 has begun"):
            write()
    queued_core.attempts.finish(second, Outcome.SUCCEEDED, result=RESULT)
    ended = queued_core.inferences.get(inference.id)
    assert [(attempt.number, attempt.server, bool(attempt.error)) for attempt in ended.attempts] == [(1, "a", True), (2, "b", False)]


def test_an_attempt_whose_lease_has_passed_is_lost_also_when_its_entry_is_delivered_again(queued_core: QueuedCore) -> None:
    inference = queued_core.submit()
    claimed(queued_core, inference)
    queued_core.clock.advance(timedelta(seconds=30))
    with pytest.raises(FailedPreconditionError, match="waits for its next attempt"):
        queued_core.attempts.claim(inference.id, "b", "1-0")
    assert queued_core.inferences.get(inference.id).state == pb.INFERENCE_STATE_QUEUED
    queued_core.clock.advance(timedelta(seconds=5))
    assert claimed(queued_core, inference, "2-0").number == 2


def test_failures_are_counted_and_end_among_the_dead_letters(queued_core: QueuedCore) -> None:
    inference = queued_core.submit(max_attempts=2)
    queued_core.attempts.finish(claimed(queued_core, inference), Outcome.RETRYABLE, error="it\x00 broke")
    assert queued_core.inferences.get(inference.id).error == "it broke"
    assert queued_core.outbox.list_to_dispatch() == []
    queued_core.clock.advance(timedelta(seconds=5))
    queued_core.attempts.finish(claimed(queued_core, inference, "2-0"), Outcome.RETRYABLE, error="it broke")
    ended = queued_core.inferences.get(inference.id)
    assert (ended.state, ended.error) == (pb.INFERENCE_STATE_FAILED, "it broke (attempt 2 of 2)")
    assert [(task.attempt, task.error) for task in queued_core.outbox.list_dead_letters()] == [(2, ended.error)]
    with pytest.raises(FailedPreconditionError, match="FAILED and has no result: it broke"):
        queued_core.inferences.get_succeeded(inference.id)


def test_waiting_for_what_is_away_is_no_failure_and_leaves_one_attempt(queued_core: QueuedCore) -> None:
    inference = queued_core.submit(max_attempts=1)
    for number in range(1, 30):
        queued_core.attempts.finish(claimed(queued_core, inference, f"{number}-0"), Outcome.POSTPONED, error="registry away")
        queued_core.clock.advance(timedelta(seconds=60))
    waiting = queued_core.inferences.get(inference.id)
    assert (waiting.state, waiting.error) == (pb.INFERENCE_STATE_QUEUED, "registry away")
    assert [attempt.number for attempt in waiting.attempts] == [29]
    assert claimed(queued_core, inference, "30-0").number == 30


def test_a_request_given_back_by_a_server_that_stops_is_due_at_once(queued_core: QueuedCore) -> None:
    inference = queued_core.submit(max_attempts=1)
    queued_core.attempts.finish(claimed(queued_core, inference), Outcome.RELEASED, error="the server was stopped")
    assert claimed(queued_core, inference, "2-0").number == 2


def test_what_is_not_computed_in_time_is_dropped(queued_core: QueuedCore) -> None:
    waiting, delivered = queued_core.submit(), queued_core.submit()
    queued_core.clock.advance(timedelta(hours=24))
    with pytest.raises(FailedPreconditionError, match="EXPIRED"):
        queued_core.attempts.claim(delivered.id, "a", "1-0")
    assert queued_core.attempts.expire_passed() == [waiting.id]
    ended = queued_core.inferences.get(waiting.id)
    assert (ended.state, list(ended.attempts)) == (pb.INFERENCE_STATE_EXPIRED, [])
    assert ended.error.startswith("not computed by 20")
    assert queued_core.outbox.list_dead_letters() == []


def test_a_running_request_hears_that_it_is_to_stop(queued_core: QueuedCore) -> None:
    inference = queued_core.submit()
    claim = claimed(queued_core, inference)
    assert queued_core.inferences.cancel(inference.id).state == pb.INFERENCE_STATE_RUNNING
    assert queued_core.attempts.report(claim, Progress(rows=1, rows_done=0))
    queued_core.attempts.finish(claim, Outcome.RETRYABLE, error="broke meanwhile")
    assert queued_core.inferences.get(inference.id).state == pb.INFERENCE_STATE_CANCELLED


def test_requests_that_ended_long_ago_are_forgotten_with_their_attempts(queued_core: QueuedCore) -> None:
    kept, gone = queued_core.submit(), queued_core.submit()
    queued_core.inferences.cancel(kept.id)
    queued_core.attempts.finish(queued_core.attempts.claim(gone.id, "a", "1-0"), Outcome.SUCCEEDED, result=RESULT)
    for task in queued_core.outbox.list_inputs_to_release():
        if task.inference_id == gone.id:
            queued_core.outbox.set_inputs_released(task)
    queued_core.clock.advance(timedelta(hours=25))
    assert queued_core.outbox.forget(7200.0) == 0
    queued_core.clock.advance(timedelta(hours=2))
    assert queued_core.outbox.forget(7200.0) == 1
    with pytest.raises(NotFoundError):
        queued_core.inferences.get(gone.id)
    queued_core.inferences.get(kept.id)  # its inputs are still held
