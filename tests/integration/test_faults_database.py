"""A PostgreSQL that refuses the password or has no room: the services say so, and are well again without a restart."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tessera.client.registry import RegistryClient
from tessera.errors import ResourceExhaustedError
from tessera.rpc.channel import open_channel
from tests.fixtures.faults import Service, closing
from tests.fixtures.postgres import PostgresServer

PASSWORD = "sesame-of-the-tests"
REFUSED = "password authentication failed"
FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file "base/5/1259": No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON models EXECUTE FUNCTION full_disk()
"""
"""What PostgreSQL answers when its disk is full, without filling one."""


@pytest.fixture
def role(postgres_server: PostgresServer) -> Iterator[tuple[str, str, str]]:
    """A role with a password, and the URLs of two databases of its own."""
    name = f"tessera_{uuid.uuid4().hex}"
    first, second = postgres_server.create_role(name, PASSWORD), postgres_server.create_database(name)
    second = sa.make_url(second).set(username=name, password=PASSWORD).render_as_string(hide_password=False)
    yield name, first, second
    postgres_server.drop_database(second)
    postgres_server.drop_role(name, first)


async def test_a_wrong_password_at_the_start_or_later_is_told_and_mended_at_the_database(
    postgres_server: PostgresServer, role: tuple[str, str, str], tmp_path: Path
) -> None:
    name, first, second = role
    registry = Service("services.registry", tmp_path, database_url=first, blob_store=f"file://{tmp_path}/blobs")
    trainer = Service("services.trainer", tmp_path, database_url=second, redis_url="redis://127.0.0.1:1/0")
    async with closing(registry, trainer):
        for password, well in (("another one", False), (PASSWORD, True), ("another one", False), (PASSWORD, True)):
            postgres_server.set_password(name, password)
            for service in (registry, trainer):
                if service.process is None:
                    service.start()
            for service in (registry, trainer):
                await service.until(well, "" if well else REFUSED)
        for service in (registry, trainer):
            assert PASSWORD not in service.log.read_text()
            assert "Traceback" not in service.log.read_text()


async def test_a_full_disk_of_the_database_is_told_while_what_is_stored_can_be_read(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    registry = Service("services.registry", tmp_path, database_url=postgres_url, blob_store=f"file://{tmp_path}/blobs")
    async with closing(registry), open_channel(registry.address) as channel:
        client = RegistryClient(channel)
        registry.start()
        await registry.until(True)
        await client.create_model("cells")
        postgres_server.execute(postgres_url, FULL)
        writing = asyncio.create_task(refused_again_and_again(client))
        await registry.until(False, "the database's disk is full: could not extend file")
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert (await client.get_model("cells")).name == "cells"
        postgres_server.execute(postgres_url, "DROP TRIGGER full_disk ON models")
        await registry.until(True)
        await client.create_model("meadow")  # a cancelled "puzzle" may have been made after all


async def refused_again_and_again(client: RegistryClient) -> None:
    while True:
        with pytest.raises(ResourceExhaustedError, match="the database's disk is full: could not extend file"):
            await client.create_model("puzzle")
        await asyncio.sleep(0.1)
