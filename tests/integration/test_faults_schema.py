"""Services and the schema that they find: an older one is brought up to date once, by one of them; a newer one is refused."""

import asyncio
import importlib
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from services.registry.storage import MIGRATIONS
from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tessera.sql import open_database, writing
from tests.fixtures.faults import Service, closing

SERVICES = {
    "services.registry": {"blob_store": "file://{here}/blobs"},
    "services.trainer": {"redis_url": "redis://127.0.0.1:1/0"},
    "services.inference": {"redis_url": "redis://127.0.0.1:1/0", "cache_dir": "{here}/cache"},
}
"""What each needs beside a database; `{here}` is a directory of the test."""


async def test_replicas_that_start_at_once_over_an_old_schema_migrate_it_once_and_keep_what_is_in_it(
    postgres_url: str, tmp_path: Path
) -> None:
    config = Config()
    config.set_main_option("script_location", importlib.import_module(MIGRATIONS).__path__[0])
    engine = open_database(postgres_url)
    with writing(engine) as session:
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "0001")
        row = {"id": 1, "name": "old", "description": "", "latest_version": 0, "create_time": 1, "revision": 1, "deleted": False}
        session.execute(sa.text(f"INSERT INTO models ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"), row)
    engine.dispose()
    replicas = [Service("services.registry", tmp_path, database_url=postgres_url, blob_store=f"file://{tmp_path}/blobs") for _ in range(3)]
    async with closing(*replicas):
        for replica in replicas:
            replica.start()
        for replica in replicas:
            await replica.until(True)
            async with open_channel(replica.address) as channel:
                assert (await RegistryClient(channel).get_model("old")).name == "old"
        [migrated] = [line for replica in replicas for line in replica.lines() if line["event"] == "schema migrated"]
        assert (migrated["before"], migrated["schema"]) == ("0001", MIGRATIONS)


async def test_a_schema_of_a_newer_release_ends_a_service_with_one_line_that_says_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'newer.db'}"
    engine = open_database(url)
    with writing(engine) as session:
        session.execute(sa.text("CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)"))
        session.execute(sa.text("INSERT INTO alembic_version VALUES ('9999')"))
    engine.dispose()
    services = [
        Service(module, tmp_path, database_url=url, **{name: text.format(here=tmp_path) for name, text in settings.items()})
        for module, settings in SERVICES.items()
    ]
    async with closing(*services):
        for service in services:
            service.start()
        for service in services:
            assert await asyncio.to_thread(service.wait) == 1
            [line] = [line for line in service.lines() if line["level"] == "error"]
            assert line["event"] == "cannot start"
            assert line["reason"].startswith("the database has the schema 9999, which this release does not know: a newer release made it")
            assert "Traceback" not in service.log.read_text()
