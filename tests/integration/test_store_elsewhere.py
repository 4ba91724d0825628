"""Blobs of a registry whose object store the caller reaches by another name, or not at all."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tessera import presigned
from tessera.blob_files import CHUNK_BYTES
from tessera.blobs import BlobTransfers
from tessera.errors import InvalidArgumentError, NotFoundError
from tests.fixtures.flaky import flaky_proxy
from tests.fixtures.ports import free_port
from tests.fixtures.registry import RegistryServer, serve_registry
from tests.fixtures.s3 import S3Server, own_bucket

SIZE = 2 * CHUNK_BYTES + 7
Serve = Callable[..., AbstractAsyncContextManager[RegistryServer]]


@pytest.fixture
def serve(s3_server: S3Server, sqlite_url: str) -> Serve:
    """Serve a registry on a bucket of its own; its presigned URLs are for `public_endpoint`."""

    @asynccontextmanager
    async def serving(public_endpoint: str, *, public_secure: bool = False) -> AsyncIterator[RegistryServer]:
        with own_bucket(s3_server, public_endpoint=public_endpoint, public_secure=public_secure) as store:
            async with serve_registry(sqlite_url, store) as server:
                yield server

    return serving


async def go_through(transfers: BlobTransfers, path: Path) -> None:
    """Send a file, bytes and ask for a head and the whole again."""
    data = os.urandom(SIZE)
    path.write_bytes(data)
    moved: list[int] = []
    ref = await transfers.upload_file(path, lambda done, _: moved.append(done))
    assert moved[-1] == SIZE
    assert await transfers.upload_bytes(data) == ref
    assert await transfers.read_head(ref.sha256, 1000) == (ref, data[:1000])
    await transfers.download_file(ref, path.with_name("back"))
    assert path.with_name("back").read_bytes() == data


class Stranger(BaseHTTPRequestHandler):
    """A server that knows nothing of the registry's bucket."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_error(HTTPStatus.FORBIDDEN)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("way", ["nobody listens", "no such host", "no TLS there", "a stranger"])
async def test_blobs_pass_through_the_registry_where_the_store_cannot_be_reached(
    serve: Serve, s3_server: S3Server, stranger: str, tmp_path: Path, way: str
) -> None:
    hosts = {
        "nobody listens": f"127.0.0.1:{free_port()}",
        "no such host": "store.invalid:9000",
        "no TLS there": s3_server.endpoint,
        "a stranger": stranger,
    }
    async with serve(hosts[way], public_secure=way == "no TLS there") as server:
        with capture_logs() as logs:
            await go_through(BlobTransfers(server.stub), tmp_path / "file")
        [said] = [line for line in logs if "lead nowhere from here" in line["event"]]
        assert (said["host"], said["log_level"]) == (hosts[way], "info")
        with pytest.raises(NotFoundError):
            await BlobTransfers(server.stub).read_head("0" * 64, 1)


async def test_a_host_that_was_not_reached_is_not_tried_again_for_a_while(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    async with serve(f"127.0.0.1:{port}") as server:
        transfers = BlobTransfers(server.stub)
        await transfers.upload_bytes(b"finds out")
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.setblocking(False)
            await go_through(transfers, tmp_path / "file")
            with pytest.raises(BlockingIOError):
                listener.accept()
        monkeypatch.setattr(presigned, "_AVOIDED_S", 0.0)
        with capture_logs() as logs:
            await go_through(BlobTransfers(server.stub), tmp_path / "other")
        assert len([line for line in logs if "lead nowhere" in line["event"]]) > 1, "each found out anew"


async def test_urls_name_the_public_endpoint_and_are_signed_for_it(serve: Serve, s3_server: S3Server, tmp_path: Path) -> None:
    with flaky_proxy(s3_server.endpoint) as proxy:
        async with serve(proxy.address) as server:
            url = server.store.presign_upload("0" * 32, timedelta(hours=1))
            assert url.startswith(f"http://{proxy.address}/")
            proxy.faults.append("busy")
            await asyncio.to_thread(server.store.check)
            assert proxy.faults, "the registry itself goes straight to the store"
            await go_through(BlobTransfers(server.stub), tmp_path / "file")
            assert not proxy.faults, "the caller went there"


def test_a_public_endpoint_that_is_none_is_named(s3_server: S3Server) -> None:
    with pytest.raises(InvalidArgumentError, match="is no S3 endpoint") as refused:
        s3_server.store("bucket", public_endpoint="http://a/b")
    assert refused.value.field == "s3_public_endpoint"
