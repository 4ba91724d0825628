"""What tessera.sql promises, on SQLite and on PostgreSQL."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from tessera.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from tessera.sql import check_database, close_database, migrate, open_database, reading, writing
from tessera.turns import Turns
from tests.fixtures.waiting import WAIT_S

NUMBERS = sa.Table("numbers", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", sa.Integer))

MIGRATE = "import sys; from tessera.sql import *; migrate(open_database(sys.argv[1]), sys.argv[2])"

FIRST = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "0001", None
def upgrade():
    op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO things (id) VALUES (7)")
"""

SECOND = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "0002", "0001"
def upgrade():
    op.add_column("things", sa.Column("name", sa.Text, nullable=False, server_default="old"))
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_database(database_url)
    with writing(engine) as session:
        NUMBERS.create(session.connection())
        session.execute(NUMBERS.insert().values(id=1, value=0))
    yield engine
    engine.dispose()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Alembic folder of one revision that can be imported as `schema_of_things`."""
    folder = tmp_path / "schema_of_things"
    (folder / "versions").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "env.py").write_text("import sqlalchemy as sa\nfrom tessera.sql import run_migrations\nrun_migrations(sa.MetaData())\n")
    (folder / "versions" / "first.py").write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    return folder


def value(engine: Engine) -> int:
    with reading(engine) as session:
        return session.execute(sa.select(NUMBERS.c.value)).scalar_one()


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://host/database"])
def test_a_url_that_names_no_usable_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        open_database(url)
    assert caught.value.field == "database_url"


def test_a_block_that_raises_changes_nothing(engine: Engine) -> None:
    with pytest.raises(KeyError), writing(engine) as session:
        session.execute(NUMBERS.update().values(value=5))
        raise KeyError
    assert value(engine) == 0


def test_a_reading_session_sees_one_moment_and_waits_for_nobody(engine: Engine) -> None:
    with reading(engine) as session:
        assert session.execute(sa.select(NUMBERS.c.value)).scalar_one() == 0
        with writing(engine) as other:
            other.execute(NUMBERS.update().values(value=1))
        assert session.execute(sa.select(NUMBERS.c.value)).scalar_one() == 0
    assert value(engine) == 1


def test_many_writers_take_turns_and_lose_no_update(engine: Engine) -> None:
    def write() -> None:
        for _ in range(10):
            with writing(engine) as session:
                seen = session.execute(sa.select(NUMBERS.c.value).with_for_update()).scalar_one()
                session.execute(NUMBERS.update().values(value=seen + 1))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(engine) == 80


def test_closing_waits_for_threads_that_wait_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'closing.db'}")
    waits = threading.Event()
    monkeypatch.setattr("tessera.sql.time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: waits.set()))
    turns: Turns = engine.get_execution_options()["tessera_turns"]
    with ThreadPoolExecutor(1) as threads:
        with turns.turn(WAIT_S):
            closing = threads.submit(close_database, engine)
            assert waits.wait(WAIT_S)
        closing.result(WAIT_S)


def test_a_full_disk_is_told_apart_from_a_database_that_is_away(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'small.db'}")
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 4"))
    with pytest.raises(ResourceExhaustedError, match="disk is full"), writing(engine) as session:
        session.execute(sa.text("CREATE TABLE blobs (data BLOB)"))
        session.execute(sa.text("INSERT INTO blobs VALUES (zeroblob(1000000))"))
    with pytest.raises(ResourceExhaustedError, match="disk is full"):
        check_database(engine)  # though it can be read
    engine.dispose()


def test_a_database_whose_tables_are_still_to_be_made_is_unavailable(database_url: str) -> None:
    engine = open_database(database_url)
    with pytest.raises(UnavailableError, match="the database is unavailable"), reading(engine) as session:
        session.execute(sa.select(NUMBERS.c.value))
    check_database(engine)
    engine.dispose()


def test_a_database_that_cannot_be_reached_is_unavailable_and_the_error_shows_no_password() -> None:
    engine = open_database("postgresql+psycopg://user:sesame@127.0.0.1:1/database")
    with pytest.raises(UnavailableError, match="database is unavailable") as caught:
        check_database(engine)
    assert "sesame" not in caught.value.message
    engine.dispose()


def test_several_processes_that_start_at_once_migrate_once(database_url: str, package: Path) -> None:
    command = [sys.executable, "-c", MIGRATE, database_url, package.name]
    environment = {"PYTHONPATH": f"{package.parent}:{Path.cwd()}"}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(process.communicate()[1].decode(), process.returncode) for process in processes] == [("", 0)] * 4
    engine = open_database(database_url)
    with reading(engine) as session:
        assert session.execute(sa.text("SELECT count(*) FROM things")).scalar_one() == 1
    engine.dispose()


def test_an_old_schema_is_upgraded_and_keeps_its_rows(database_url: str, package: Path) -> None:
    engine = open_database(database_url)
    migrate(engine, package.name)
    (package / "versions" / "second.py").write_text(SECOND)
    migrate(engine, package.name)
    migrate(engine, package.name)
    with reading(engine) as session:
        assert session.execute(sa.text("SELECT id, name FROM things")).all() == [(7, "old")]
    engine.dispose()


def test_a_schema_of_a_newer_release_is_refused(database_url: str, package: Path) -> None:
    engine = open_database(database_url)
    (package / "versions" / "second.py").write_text(SECOND)
    migrate(engine, package.name)
    (package / "versions" / "second.py").unlink()
    with pytest.raises(FailedPreconditionError, match="0002"):
        migrate(engine, package.name)
    engine.dispose()


def test_a_migration_that_fails_half_way_leaves_nothing(database_url: str, package: Path) -> None:
    engine = open_database(database_url)
    (package / "versions" / "first.py").write_text(FIRST + '    op.execute("INSERT INTO nowhere VALUES (1)")\n')
    with pytest.raises((UnavailableError, sa.exc.ProgrammingError)):
        migrate(engine, package.name)
    (package / "versions" / "first.py").write_text(FIRST)
    migrate(engine, package.name)
    engine.dispose()
