"""What the trainer's migrations make of the jobs that are there, on SQLite and PostgreSQL."""

import importlib

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from services.trainer.connections import MIGRATIONS
from services.trainer.jobs import Jobs
from services.trainer.outbox import Outbox
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.sql import migrate, open_database, writing

FIRST_ROW = {
    "spec": '{"family": "fake", "model": "cells", "inputs": [{"name": "picture", "sha256": "ab"}]}',
    "family": "fake",
    "model": "cells",
    "error": "boom",
    "version": 0,
    "cancel_requested": False,
    "max_attempts": 1,
    "create_time": 1,
    "trace": "{}",
    "dispatch_time": 0,
}


def test_jobs_whose_end_the_registry_was_not_told_are_settled_and_inputs_of_open_ones_held(database_url: str) -> None:
    engine = open_database(database_url)
    config = Config()
    config.set_main_option("script_location", importlib.import_module(MIGRATIONS).__path__[0])
    rows = [
        {"id": "untold", "state": 4, "finish_time": 9, "experiment_id": "e1", "experiment_due": True, "dead_letter_due": True},
        {"id": "told", "state": 4, "finish_time": 9, "experiment_id": "e2", "experiment_due": False, "dead_letter_due": True},
        {"id": "queued", "state": 1, "finish_time": None, "experiment_id": "", "experiment_due": False, "dead_letter_due": False},
    ]
    with writing(engine) as session:
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "0001")
        names = [*FIRST_ROW, *rows[0]]
        insert = f"INSERT INTO jobs ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
        session.execute(sa.text(insert), [FIRST_ROW | row for row in rows])
    migrate(engine, MIGRATIONS)
    jobs, outbox = Jobs(engine), Outbox(engine)
    assert [task.job_id for task in outbox.list_ending()] == ["untold"]
    assert [task.job_id for task in outbox.list_dead_letters()] == ["told"]
    assert [(task.job_id, task.inputs) for task in outbox.list_inputs_to_hold()] == [("untold", ["ab"]), ("queued", ["ab"])]
    assert [jobs.get(row["id"]).state for row in rows] == [pb.JOB_STATE_RUNNING, pb.JOB_STATE_FAILED, pb.JOB_STATE_QUEUED]
    engine.dispose()
