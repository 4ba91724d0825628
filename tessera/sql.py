"""SQL for the services that keep their truth in it: SQLite (WAL) embedded, PostgreSQL by URL, with one behaviour for both.

A service opens its database once, migrates it once, and then works in `reading` and `writing` sessions. A writing session on SQLite takes
the write lock at its beginning (BEGIN IMMEDIATE), so that two writers queue instead of failing half way; a reading session sees one
snapshot from its first statement to its last on both databases.
"""

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import sqlalchemy as sa
import structlog
from alembic import command, context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from tessera.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from tessera.fullness import Fullness
from tessera.turns import Turns

log = structlog.get_logger()

LOCK_TIMEOUT_S = 10
"""How long a statement waits for a lock before it gives up."""

POSTGRESQL_OPTIONS = (
    f"-c lock_timeout={LOCK_TIMEOUT_S}s -c statement_timeout=30s -c idle_in_transaction_session_timeout=60s -c random_page_cost=1.1"
)
"""A process that hangs inside a transaction must not hold up every other replica for ever. What is read lies in memory or on a flash
disk: with the default cost of a random page, made for turning disks, pages would be found by reading whole tables."""

MIGRATION_LOCK = 0x7E55E7A
"""Key of the advisory lock under which PostgreSQL lets one process at a time migrate."""

_migrating = threading.Lock()
_WRITE = "tessera_write"
_FULLNESS = "tessera_fullness"
_TURNS = "tessera_turns"
_UNDEFINED_TABLE = "42P01"


def open_database(url: str) -> Engine:
    """Return an engine; nothing is connected yet.

    Args:
        url: `sqlite:////absolute/file.db` (its folder is made) or `postgresql+psycopg://user:password@host:port/database`.

    Raises:
        InvalidArgumentError: The URL is malformed or names another database.
        FailedPreconditionError: The folder of a SQLite file cannot be made.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise InvalidArgumentError("the database URL cannot be parsed", field="database_url") from error
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        engine = _open_sqlite(parsed)
    elif parsed.drivername == "postgresql+psycopg":
        engine = _open_postgresql(parsed)
    else:
        raise InvalidArgumentError.unknown("database", parsed.drivername, ["sqlite", "postgresql+psycopg"], field="database_url")
    engine.update_execution_options(**{_FULLNESS: Fullness(), _TURNS: Turns()})
    return engine


def close_database(engine: Engine) -> None:
    """Close all connections. Threads whose calls were cancelled do not know it; they get a moment to end what they write and read."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while _is_used(engine) and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.dispose()


def _is_used(engine: Engine) -> bool:
    # Who waits for a turn has no connection yet.
    return _turns(engine).taken or (isinstance(engine.pool, QueuePool) and engine.pool.checkedout() > 0)


def _open_postgresql(url: URL) -> Engine:
    connect = {"connect_timeout": 5, "options": POSTGRESQL_OPTIONS}
    return sa.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=8, pool_timeout=LOCK_TIMEOUT_S, connect_args=connect)


def _open_sqlite(url: URL) -> Engine:
    """Return an engine on a SQLite file in WAL mode."""
    if not url.database or url.database == ":memory:":
        raise InvalidArgumentError("a SQLite URL must name a file: sqlite:////absolute/file.db", field="database_url")
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FailedPreconditionError(
            f"cannot make the folder {str(folder)!r} of the database: {error.strerror}", field="database_url"
        ) from error
    engine = sa.create_engine(url, pool_size=8, max_overflow=8, pool_timeout=LOCK_TIMEOUT_S, connect_args={"timeout": LOCK_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver must not begin transactions by itself, or it would begin them without the write lock.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN")

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Yield a session on one consistent snapshot; what it changes is rolled back.

    Raises:
        UnavailableError: The database cannot be reached or does not answer in time.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with _translated(), Session(engine, expire_on_commit=False) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """Yield a session that is committed at the end, or rolled back if the block raises.

    Raises:
        UnavailableError: The database cannot be reached or a lock could not be had in time; nothing was changed unless the
            connection broke during the commit itself.
        ResourceExhaustedError: The database's disk is full.
    """
    writer = engine.execution_options(**{_WRITE: True})
    try:
        with _turn(engine), _translated(), Session(writer, expire_on_commit=False) as session, session.begin():
            yield session
    except _DiskFullError as error:
        _fullness(engine).found(error)
        raise


def _turn(engine: Engine) -> AbstractContextManager[None]:
    """Let the threads that write to SQLite take turns: it lets them poll for its lock, and the unlucky ones would wait in vain."""
    return _turns(engine).turn(LOCK_TIMEOUT_S) if engine.dialect.name == "sqlite" else nullcontext()


def _turns(engine: Engine) -> Turns:
    found: Turns = engine.get_execution_options()[_TURNS]
    return found


def check_database(engine: Engine) -> None:
    """Return if the database answers and its disk is not known to be full.

    Raises:
        UnavailableError: It does not answer.
        ResourceExhaustedError: It had no room for what was written last.
    """
    with reading(engine) as session:
        session.execute(sa.text("SELECT 1"))
    _fullness(engine).check()


class _DiskFullError(ResourceExhaustedError):
    """The database itself says so; limits that callers run into are other errors."""


def _fullness(engine: Engine) -> Fullness:
    found: Fullness = engine.get_execution_options()[_FULLNESS]
    return found


@contextmanager
def _translated() -> Iterator[None]:
    """Translate what the driver raises when the database is away, full or not prepared yet; everything else is a bug and passes."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError) as error:
        reason = str(error.orig).strip().partition("\n")[0]
        if "disk is full" in reason or getattr(error.orig, "sqlstate", None) == "53100":
            raise _DiskFullError(f"the database's disk is full: {reason}") from error
        raise UnavailableError(f"the database is unavailable: {reason}", retry_after_s=1.0) from error
    except exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _UNDEFINED_TABLE:
            raise
        raise UnavailableError("the database is unavailable: its tables have not been made yet", retry_after_s=1.0) from error
    except exc.TimeoutError as error:
        raise UnavailableError("the database is unavailable: all connections are busy", retry_after_s=1.0) from error


def migrate(engine: Engine, package: str) -> None:
    """Bring the schema to the newest revision. Several processes may do this at once: one works, the others wait and find it done.

    Args:
        package: Import path of an Alembic folder (`env.py`, `versions/`), for example `services.registry.migrations`.

    Raises:
        UnavailableError: The database cannot be reached.
        FailedPreconditionError: The schema was made by a newer release.
    """
    config = Config()
    config.set_main_option("script_location", importlib.import_module(package).__path__[0])
    with _migrating, writing(engine) as session:
        if engine.dialect.name == "postgresql":
            session.execute(sa.text("SET LOCAL lock_timeout = 0"))
            session.execute(sa.text("SET LOCAL statement_timeout = 0"))
            session.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = session.connection()
        before = _revision(session.connection())
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise FailedPreconditionError(
                f"the database has the schema {before}, which this release does not know: a newer release made it; start that one, "
                f"or restore a backup that this one made ({error})"
            ) from error
        after = _revision(session.connection())
    if before != after:
        log.info("schema migrated", schema=package, before=before, after=after)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def run_migrations(metadata: sa.MetaData) -> None:
    """Run the migrations that `migrate` asked for; an `env.py` consists of this call with the metadata of its tables."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
    context.run_migrations()
