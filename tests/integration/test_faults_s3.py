"""A registry whose S3 store is away, refuses the keys, is busy or breaks off: it says so, and is well again without a restart."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tessera.client.registry import RegistryClient
from tessera.errors import UnavailableError
from tessera.rpc.channel import open_channel
from tests.fixtures.faults import OwnS3, Service, closing
from tests.fixtures.flaky import flaky_proxy
from tests.fixtures.inference import TinyModel, poll, publish_version, ready, serve_inference
from tests.fixtures.s3 import S3Server

REFUSED = "the S3 store refused the access"
HEADERS_BYTES = 1000
"""So much of an answer passes: not its body."""


@pytest.fixture
async def own_s3(tmp_path: Path) -> AsyncIterator[OwnS3]:
    found = OwnS3(tmp_path / "s3")
    yield found
    found.stop()


async def test_keys_that_are_wrong_at_the_start_or_later_are_told_and_mended_at_the_store(tmp_path: Path, own_s3: OwnS3) -> None:
    registry = Service("services.registry", tmp_path, database_url=f"sqlite:///{tmp_path / 'registry.db'}", **own_s3.settings)
    async with closing(registry), open_channel(registry.address) as channel:
        client = RegistryClient(channel)
        registry.start()
        await registry.until(False, "the S3 store cannot be reached")
        own_s3.start("another key")
        await registry.until(False, REFUSED)
        own_s3.restart()
        await registry.until(True)
        kept = await client.upload_bytes(b"kept")
        own_s3.restart("another key")
        await registry.until(False, REFUSED)
        with pytest.raises(UnavailableError, match="check the access key, the secret key"):
            await client.upload_bytes(b"refused")
        own_s3.restart()
        await registry.until(True)
        assert await client.upload_bytes(b"kept") == kept
        await client.upload_bytes(b"refused")
        assert own_s3.server.secret_key not in registry.log.read_text()


async def test_a_store_that_is_busy_or_breaks_off_delays_what_needs_it_and_nothing_else(tmp_path: Path, rclone_server: S3Server) -> None:
    with flaky_proxy(rclone_server.endpoint) as proxy, flaky_proxy(rclone_server.endpoint) as callers_proxy:
        elsewhere = {"s3_endpoint": proxy.address, "s3_public_endpoint": callers_proxy.address, "s3_public_secure": "false"}
        settings = OwnS3(tmp_path).settings | elsewhere | {"blob_store": f"s3://tessera-{uuid.uuid4().hex}"}
        registry = Service("services.registry", tmp_path, database_url=f"sqlite:///{tmp_path / 'registry.db'}", **settings)
        async with closing(registry), open_channel(registry.address) as channel:
            client = RegistryClient(channel)
            registry.start()
            await registry.until(True)
            await publish_version(client, "puzzle", TinyModel(marker=1), alias="champion")
            callers_proxy.suffer(HEADERS_BYTES)
            async with serve_inference(registry.address, tmp_path / "cache", wait=False) as server:
                await server.wait_for("puzzle", 1, "FAILED")
                with pytest.raises(UnavailableError, match=r"no version answers; puzzle version 1: .* breaks off"):
                    await server.pool.check()
                proxy.suffer("busy")
                await registry.until(False, "the S3 store failed (too many 503 error responses)")
                assert (await client.get_version("puzzle", version=1)).version == 1, "the database answers without the store"
                with pytest.raises(UnavailableError, match="the S3 store failed"):
                    await client.upload_bytes(b"refused")
                callers_proxy.suffer(None)
                proxy.suffer(None)
                await registry.until(True)
                await poll(lambda: ready(server.pool))
                await server.wait_for("puzzle", 1)
