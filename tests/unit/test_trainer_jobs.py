"""Jobs and families as they are kept, on SQLite and PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from services.trainer.tables import Outcome, State
from services.trainer.validation import complete_spec
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from tests.fixtures.trainer import TrainerCore


def test_a_job_comes_back_as_it_was_submitted(trainer_core: TrainerCore) -> None:
    spec = pb.JobSpec(family="fake", architecture="tiny", model="cells", name="ünï ☃", alias="champion")
    spec.hyperparameters.update({"epochs": 3, "nested": {"list": [1, 2.5, None, "x"]}})
    spec.inputs.add(name="picture", sha256="a" * 64, size_bytes=2**31)
    complete = complete_spec(spec)
    job, created = trainer_core.jobs.submit("j1", complete, idempotency_key="", trace={"traceparent": "x"})
    assert created
    assert trainer_core.jobs.get("j1") == job
    assert (job.spec, job.state, job.spec.max_attempts, job.spec.attempt_timeout.seconds) == (complete, pb.JOB_STATE_QUEUED, 3, 86400)
    assert not (job.HasField("progress") or job.HasField("start_time") or job.HasField("finish_time"))


def test_a_key_stands_for_one_job_also_when_many_submit_it_at_once(trainer_core: TrainerCore) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: trainer_core.submit(key="k"), range(16)))
    assert len({job.id for job in jobs}) == 1
    assert len(trainer_core.jobs.list()[0]) == 1
    trainer_core.submit()
    trainer_core.submit()
    assert len(trainer_core.jobs.list()[0]) == 3


def test_a_key_with_another_spec_is_refused_and_names_the_job(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit(key="k")
    with pytest.raises(AlreadyExistsError, match=f"'k' was used for job {job.id} with another spec") as raised:
        trainer_core.submit(key="k", model="other")
    assert raised.value.field == "idempotency_key"


def test_jobs_are_listed_newest_first_in_pages_and_by_state_and_model(trainer_core: TrainerCore) -> None:
    ids = [trainer_core.submit(model="even" if number % 2 == 0 else "odd").id for number in range(7)]
    seen, token = [], ""
    while True:
        page, token = trainer_core.jobs.list(page_size=3, page_token=token)
        seen += [job.id for job in page]
        trainer_core.submit()  # what is added meanwhile does not shift the pages
        if not token:
            break
    assert seen == ids[::-1]
    assert [job.id for job in trainer_core.jobs.list(model="odd")[0]] == [ids[5], ids[3], ids[1]]
    trainer_core.jobs.cancel(ids[4])
    assert [job.id for job in trainer_core.jobs.list(state=State.CANCELLED)[0]] == [ids[4]]
    for arguments in ({"page_size": 1001}, {"page_size": -1}, {"page_token": "x"}, {"page_token": "9" * 30}):
        with pytest.raises(InvalidArgumentError):
            trainer_core.jobs.list(**arguments)  # type: ignore[arg-type]


def test_cancelling_is_for_jobs_that_have_not_ended(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w", 1)
    trainer_core.attempts.finish(job.id, 1, Outcome.SUCCEEDED, version=1)
    cancelled = trainer_core.jobs.cancel(job.id)
    assert (cancelled.state, cancelled.cancel_requested) == (pb.JOB_STATE_SUCCEEDED, False)
    with pytest.raises(NotFoundError):
        trainer_core.jobs.cancel("nope")
    assert trainer_core.jobs.count_by_state()[State.SUCCEEDED] == 1


def test_families_are_kept_as_announced_last_and_forgotten_when_nobody_announces_them(trainer_core: TrainerCore) -> None:
    old, new = pb.Family(name="cells", description="old"), pb.Family(name="cells", description="new")
    new.hyperparameters_schema.update({"type": "object"})
    trainer_core.families.announce("w1", [old, pb.Family(name="bricks")])
    trainer_core.clock.advance(timedelta(minutes=40))
    trainer_core.families.announce("w2", [new])
    assert trainer_core.families.list() == [pb.Family(name="bricks"), new]
    trainer_core.clock.advance(timedelta(minutes=40))
    assert trainer_core.families.list() == [new]
    with pytest.raises(InvalidArgumentError, match=r"families\[0\].name"):
        trainer_core.families.announce("w", [pb.Family(name="../x")])
    with pytest.raises(InvalidArgumentError, match="worker: 0 characters; it takes 1 to 256"):
        trainer_core.families.announce("", [])
