"""Uploaders that fall silent in the middle of a blob: they hold nobody up, and not for ever."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from model_store.local import LocalStore
from services.registry.streams import MAX_TRANSFERS
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.blobs import BlobTransfers
from tessera.errors import DeadlineExceededError
from tessera.rpc.ending import answer_of
from tessera.rpc.status import rpc_errors
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryServer, serve_registry
from tests.fixtures.waiting import WAIT_S, until

PART = bytes(1000)


def unfinished(folder: Path) -> list[Path]:
    return list((folder / "uploads").iterdir())


async def half(number: int) -> AsyncIterator[pb.UploadBlobRequest]:
    """Send the first part of a blob and then nothing more."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    yield pb.UploadBlobRequest(header=pb.BlobHeader(sha256=sha256, size_bytes=2 * len(PART)))
    yield pb.UploadBlobRequest(chunk=PART)
    await asyncio.Event().wait()


@asynccontextmanager
async def silent_uploaders(server: RegistryServer, folder: Path, count: int) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Begin so many uploads; goes on when every thread for uploads is taken by one."""

    async def upload(number: int) -> None:
        with rpc_errors():
            await answer_of(server.stub.UploadBlob(half(number)))

    uploads = [asyncio.create_task(upload(number)) for number in range(count)]
    await until(lambda: len(unfinished(folder)) == min(count, MAX_TRANSFERS))
    yield uploads
    for task in uploads:
        task.cancel()
    await asyncio.gather(*uploads, return_exceptions=True)


async def test_an_upload_that_falls_silent_is_broken_off_with_the_reason_and_leaves_nothing(sqlite_url: str, tmp_path: Path) -> None:
    async with serve_registry(sqlite_url, LocalStore(tmp_path), idle_s=0.5) as server:
        with pytest.raises(DeadlineExceededError, match=r"no bytes of the upload came for 0\.5 s"), rpc_errors():
            await answer_of(server.stub.UploadBlob(half(0)))
        assert unfinished(tmp_path) == []
        assert list(server.store.list()) == []


async def test_silent_uploaders_keep_nobody_from_publishing_or_verifying(registry_server: RegistryServer, tmp_path: Path) -> None:
    stub = registry_server.stub
    await stub.CreateModel(pb.CreateModelRequest(name="cells"))
    manifest = Artifact().store(registry_server.store)
    async with silent_uploaders(registry_server, tmp_path / "blobs", MAX_TRANSFERS + 8) as uploads:
        await stub.CreateVersion(pb.CreateVersionRequest(model="cells", manifest_json=manifest), timeout=WAIT_S)
        assert (await stub.VerifyVersion(pb.VerifyVersionRequest(model="cells", version=1), timeout=WAIT_S)).intact
        await stub.CollectGarbage(pb.CollectGarbageRequest(dry_run=True), timeout=WAIT_S)
        assert not any(upload.done() for upload in uploads)


async def test_those_who_wait_behind_silent_uploaders_get_their_turn(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        serve_registry(sqlite_url, LocalStore(tmp_path), idle_s=3.0) as server,
        silent_uploaders(server, tmp_path, MAX_TRANSFERS + 8),
        asyncio.timeout(WAIT_S),
    ):
        ref = await BlobTransfers(server.stub).upload_bytes(b"data")
        assert server.store.stat(ref.sha256) is not None
