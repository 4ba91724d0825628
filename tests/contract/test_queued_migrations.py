"""What the migrations of queued inference make of the requests that are there, on SQLite and PostgreSQL."""

import importlib

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from services.inference.queued.connections import MIGRATIONS
from services.inference.queued.inferences import Inferences
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.blob_files import BlobRef
from tessera.sql import close_database, migrate, open_database, writing

INPUTS = BlobRef.of_bytes(b"inputs")
ROW = {
    "id": "waiting",
    "spec": f'{{"model": {{"model": "cells"}}, "blob": {{"sha256": "{INPUTS.sha256}", "size_bytes": "6"}}, "priority": 3}}',
    "model": "cells",
    "priority": 3,
    "sticky_key": "",
    "wanted_runtime": "",
    "inputs_sha256": INPUTS.sha256,
    "state": 1,
    "rows": 8,
    "rows_done": 4,
    "error": "",
    "cancel_requested": False,
    "max_attempts": 3,
    "version": 0,
    "runtime": "",
    "result_size": 0,
    "create_time": 1,
    "expire_time": 9,
    "postponed": 0,
    "trace": "{}",
    "dispatch_time": 0,
    "dead_letter_due": False,
    "inputs_held": True,
    "result_due": False,
}


def test_requests_for_tensors_stay_what_they_were_when_reconstructions_come(database_url: str) -> None:
    engine = open_database(database_url)
    config = Config()
    config.set_main_option("script_location", importlib.import_module(MIGRATIONS).__path__[0])
    with writing(engine) as session:
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "0001")
        session.execute(sa.text(f"INSERT INTO inferences ({', '.join(ROW)}) VALUES ({', '.join(f':{name}' for name in ROW)})"), ROW)
    migrate(engine, MIGRATIONS)
    waiting = Inferences(engine).get("waiting")
    assert (waiting.model.model, waiting.inputs.sha256, waiting.rows, waiting.rows_done) == ("cells", INPUTS.sha256, 8, 4)
    assert (waiting.state, waiting.HasField("reconstruction")) == (pb.INFERENCE_STATE_QUEUED, False)
    close_database(engine)
