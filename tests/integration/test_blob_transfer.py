"""Blobs between a client and a real registry, by stream (local store) and by presigned URL (S3)."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from minio.commonconfig import CopySource

from model_store.local import LocalStore
from model_store.store import BlobStore
from tessera.blob_files import CHUNK_BYTES
from tessera.blobs import BlobRef, BlobTransfers, OnProgress
from tessera.errors import DataLossError, InvalidArgumentError, NotFoundError, UnavailableError
from tests.fixtures.flaky import FlakyProxy, flaky_proxy
from tests.fixtures.registry import RegistryServer, serve_registry
from tests.fixtures.s3 import SERVERS, S3Server, own_bucket
from tests.fixtures.waiting import WAIT_S, until

SIZES = [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7]


@dataclass(frozen=True)
class Case:
    """A registry, the store behind it, and how to damage a blob in it."""

    server: RegistryServer
    store: BlobStore
    overwrite: Callable[[BlobRef, bytes], None]

    @property
    def transfers(self) -> BlobTransfers:
        return BlobTransfers(self.server.stub)


@pytest.fixture(params=["local", *SERVERS])
async def case(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Case]:
    with ExitStack() as stack:
        if request.param == "local":
            store = LocalStore(tmp_path / "blobs")

            def overwrite(ref: BlobRef, data: bytes) -> None:
                store._path(ref.sha256).write_bytes(data)
        else:
            store = stack.enter_context(own_bucket(request.getfixturevalue(request.param)))

            def overwrite(ref: BlobRef, data: bytes) -> None:
                other = BlobRef.of_bytes(data)
                store.write(other, [data])
                keys = [f"blobs/sha256/{sha256[:2]}/{sha256}" for sha256 in (other.sha256, ref.sha256)]
                store._client.copy_object(store._bucket, keys[1], CopySource(store._bucket, keys[0]))

        async with serve_registry(sqlite_url, store) as server:
            yield Case(server, store, overwrite)


def file_of(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "source"
    path.write_bytes(data)
    return path


def below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_goes_up_and_comes_down_and_says_how_far_it_is(case: Case, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    up, down = [], []
    ref = await case.transfers.upload_file(file_of(tmp_path, data), lambda moved, total: up.append((moved, total)))
    assert ref == BlobRef.of_bytes(data)
    destination = tmp_path / "new" / "folder" / "file"
    await case.transfers.download_file(ref, destination, lambda moved, total: down.append((moved, total)))
    assert destination.read_bytes() == data
    assert below(destination.parent) == [destination]
    for progress in (up, down):
        assert progress == sorted(progress)
        assert progress[-1:] == ([(size, size)] if size else [])


async def test_the_beginning_of_a_blob_is_read_alone(case: Case) -> None:
    data = os.urandom(2 * CHUNK_BYTES)
    ref = await case.transfers.upload_bytes(data)
    for head_bytes in (1, 1000, CHUNK_BYTES + 1, 3 * CHUNK_BYTES):
        assert await case.transfers.read_head(ref.sha256, head_bytes) == (ref, data[:head_bytes])
    with pytest.raises(NotFoundError):
        await case.transfers.read_head("0" * 64, 1)


async def test_a_blob_that_is_stored_is_not_sent_again(case: Case, tmp_path: Path) -> None:
    ref = await case.transfers.upload_bytes(b"once")
    progress = []
    assert await case.transfers.upload_file(file_of(tmp_path, b"once"), lambda *moved: progress.append(moved)) == ref
    assert progress == []


async def test_a_file_that_cannot_be_read_is_refused(case: Case, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidArgumentError, match="cannot read") as refused:
            await case.transfers.upload_file(path)
        assert refused.value.field == "path"


async def test_an_unknown_blob_is_not_found_and_leaves_nothing(case: Case, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await case.transfers.download_file(BlobRef.of_bytes(b"never sent"), tmp_path / "d" / "file")
    assert below(tmp_path / "d") == []


@pytest.mark.parametrize("damaged", [b"Some bytes", b"some byte", b"some bytes and more", b""])
async def test_a_damaged_blob_is_data_loss_and_what_was_there_before_stays(case: Case, tmp_path: Path, damaged: bytes) -> None:
    ref = await case.transfers.upload_bytes(b"some bytes")
    case.overwrite(ref, damaged)
    destination = tmp_path / "d" / "file"
    destination.parent.mkdir()
    destination.write_bytes(b"older")
    with pytest.raises(DataLossError):
        await case.transfers.download_file(ref, destination)
    assert [(path, path.read_bytes()) for path in below(tmp_path / "d")] == [(destination, b"older")]


async def cancel_in_the_middle(transfer: Callable[[OnProgress], Coroutine[Any, Any, object]]) -> None:
    """Cancel a transfer after its first chunk; one that runs in a thread waits there until then."""
    loop, begun, cancelled = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def tell(moved: int, total: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        if threading.current_thread() is not threading.main_thread():
            assert cancelled.wait(WAIT_S)

    task = asyncio.ensure_future(transfer(tell))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()


async def test_a_cancelled_download_leaves_nothing(case: Case, tmp_path: Path) -> None:
    ref = await case.transfers.upload_bytes(os.urandom(8 * CHUNK_BYTES))
    await cancel_in_the_middle(lambda tell: case.transfers.download_file(ref, tmp_path / "d" / "file", tell))
    await until(lambda: not below(tmp_path / "d"))


async def test_a_cancelled_upload_stores_nothing(case: Case, tmp_path: Path) -> None:
    path = file_of(tmp_path, os.urandom(32 * CHUNK_BYTES))
    await cancel_in_the_middle(lambda tell: case.transfers.upload_file(path, tell))
    assert list(case.store.list()) == []


async def test_no_registry_is_unavailable(case: Case, tmp_path: Path) -> None:
    await case.server.channel.close()
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        stub = type(case.server.stub)(channel)
        with pytest.raises(UnavailableError):
            await BlobTransfers(stub).upload_bytes(b"data")
        with pytest.raises(UnavailableError):
            await BlobTransfers(stub).download_file(BlobRef.of_bytes(b"data"), tmp_path / "file")


@pytest.fixture
def proxy(rclone_server: S3Server) -> Iterator[FlakyProxy]:
    with flaky_proxy(rclone_server.endpoint) as found:
        yield found


@pytest.fixture
async def flaky(rclone_server: S3Server, proxy: FlakyProxy, sqlite_url: str) -> AsyncIterator[RegistryServer]:
    """A registry whose presigned URLs lead through a proxy that can break connections."""
    with own_bucket(replace(rclone_server, endpoint=proxy.address)) as store:
        async with serve_registry(sqlite_url, store) as server:
            yield server


@pytest.mark.parametrize("faults", [["busy"], ["reset"], ["busy", "reset", "busy"]])
async def test_a_presigned_upload_is_tried_again(flaky: RegistryServer, proxy: FlakyProxy, tmp_path: Path, faults: list[str | int]) -> None:
    data = os.urandom(2 * CHUNK_BYTES)
    path = file_of(tmp_path, data)
    await BlobTransfers(flaky.stub).upload_bytes(b"opens the registry's own connection")
    proxy.faults.extend(faults)
    ref = await BlobTransfers(flaky.stub).upload_file(path)
    assert not proxy.faults
    assert b"".join(flaky.store.read(ref.sha256)) == data


@pytest.mark.parametrize("faults", [["busy"], ["reset"], [100_000], [1_500_000, "busy", 700_000]])
async def test_a_presigned_download_is_tried_again(
    flaky: RegistryServer, proxy: FlakyProxy, tmp_path: Path, faults: list[str | int]
) -> None:
    data = os.urandom(2 * CHUNK_BYTES)
    ref = await BlobTransfers(flaky.stub).upload_bytes(data)
    proxy.faults.extend(faults)
    await BlobTransfers(flaky.stub).download_file(ref, tmp_path / "file")
    assert not proxy.faults
    assert (tmp_path / "file").read_bytes() == data


async def test_a_store_that_stays_busy_is_unavailable(flaky: RegistryServer, proxy: FlakyProxy, tmp_path: Path) -> None:
    ref = await BlobTransfers(flaky.stub).upload_bytes(b"data")
    proxy.faults.extend(["busy"] * 9)
    with pytest.raises(UnavailableError, match="busy"):
        await BlobTransfers(flaky.stub).download_file(ref, tmp_path / "d" / "file")
    proxy.faults.clear()
    assert below(tmp_path / "d") == []
