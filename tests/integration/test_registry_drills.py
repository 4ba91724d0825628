"""The registry as a process: killed while writers write, without its database or store, and with files of gigabytes."""

import asyncio
import hashlib
import resource
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.api.registry.v1 import registry_pb2_grpc
from tessera.blobs import BlobTransfers
from tessera.errors import AlreadyExistsError, ResourceExhaustedError, TesseraError, UnavailableError
from tessera.rpc.channel import open_channel
from tessera.rpc.ending import answer_of
from tessera.rpc.status import rpc_errors
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.waiting import WAIT_S, until

Stub = Any  # the generated class exists for the type checker only
MIB = 1 << 20
KILLS = 3
WRITERS = 3


@pytest.fixture
async def stub(registry_process: RegistryProcess) -> AsyncIterator[Stub]:
    async with open_channel(registry_process.address) as channel:
        yield registry_pb2_grpc.RegistryServiceStub(channel)


async def write(stub: Stub, writer: int, acknowledged: set[str], stop: asyncio.Event) -> None:
    """Make one model after the other, however often the registry dies, until told to stop."""
    number = 0
    while not stop.is_set():
        name = f"model-{writer}-{number}"
        try:
            with rpc_errors():
                await stub.CreateModel(pb.CreateModelRequest(name=name), timeout=5)
        except AlreadyExistsError:
            pass  # the registry died after it had written and before it had answered
        except TesseraError:
            await asyncio.sleep(0.05)
            continue
        acknowledged.add(name)
        number += 1


async def watch(stub: Stub, seen: list[tuple[int, str]]) -> None:
    """Gather all events, taking up again after the last message (bookmarks too) whenever the stream breaks."""
    position = 0
    while True:
        try:
            with rpc_errors():
                async for event in stub.Watch(pb.WatchRequest(since_revision=position)):
                    position = event.revision
                    if event.WhichOneof("event"):
                        seen.append((event.revision, event.model_changed.name))
        except TesseraError:
            await asyncio.sleep(0.05)


async def test_watchers_miss_nothing_and_see_nothing_twice_though_the_registry_is_killed_while_writers_write(
    registry_process: RegistryProcess, stub: Stub
) -> None:
    acknowledged: set[str] = set()
    stop = asyncio.Event()
    streams: list[list[tuple[int, str]]] = [[], []]
    watching = [asyncio.create_task(watch(stub, seen)) for seen in streams]
    writing = [asyncio.create_task(write(stub, writer, acknowledged, stop)) for writer in range(WRITERS)]
    for _ in range(KILLS):
        before = len(acknowledged)
        await until(lambda before=before: len(acknowledged) >= before + 20)
        registry_process.kill()
        await asyncio.to_thread(registry_process.start)
    await until(lambda: len(acknowledged) >= 20 * (KILLS + 1))
    stop.set()
    await asyncio.gather(*writing)
    await until(lambda: all({name for _, name in seen} >= acknowledged for seen in streams))
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    for seen in streams:
        assert [revision for revision, _ in seen] == list(range(1, len(seen) + 1)), "every revision exactly once, in order"
        assert {name for _, name in seen} == acknowledged


async def test_without_its_database_the_registry_is_unavailable_and_recovers_by_itself(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    server = postgres_server
    process = RegistryProcess(tmp_path, postgres_url)
    try:
        await asyncio.to_thread(process.start)
        async with open_channel(process.address) as channel:
            stub = registry_pb2_grpc.RegistryServiceStub(channel)
            await stub.CreateModel(pb.CreateModelRequest(name="cells"))
            await asyncio.to_thread(server.stop)
            with pytest.raises(UnavailableError, match="database is unavailable"), rpc_errors():
                await stub.GetModel(pb.GetModelRequest(name="cells"), timeout=WAIT_S)
            await asyncio.to_thread(process.wait_for_health, HealthCheckResponse.NOT_SERVING)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(process.wait_for_health, HealthCheckResponse.SERVING)
            assert (await stub.GetModel(pb.GetModelRequest(name="cells"))).model.name == "cells"
            assert process.stop() == 0
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(process.start, serving=False)
            await asyncio.to_thread(process.wait_for_health, HealthCheckResponse.NOT_SERVING)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(process.wait_for_health, HealthCheckResponse.SERVING)
    finally:
        if process.process is not None:
            process.kill()
        server.start()


async def test_without_its_blob_store_the_registry_is_not_serving_and_recovers_by_itself(
    registry_process: RegistryProcess, stub: Stub
) -> None:
    shutil.rmtree(registry_process.blobs)
    registry_process.blobs.write_bytes(b"in the way")
    await asyncio.to_thread(registry_process.wait_for_health, HealthCheckResponse.NOT_SERVING)
    with pytest.raises(UnavailableError), rpc_errors():
        header = pb.BlobHeader(sha256=hashlib.sha256(b"").hexdigest())
        await answer_of(stub.UploadBlob(iter([pb.UploadBlobRequest(header=header)])))
    registry_process.blobs.unlink()
    await asyncio.to_thread(registry_process.wait_for_health, HealthCheckResponse.SERVING)


async def test_a_full_disk_refuses_an_upload_with_the_reason_and_the_registry_serves_on(
    registry_process: RegistryProcess, stub: Stub
) -> None:
    def files() -> list[Path]:
        return [path for path in registry_process.blobs.rglob("*") if path.is_file()]

    large = bytes(8 * MIB)
    # No file may grow beyond this: the kernel refuses the write as it does on a full disk.
    resource.prlimit(registry_process.process.pid, resource.RLIMIT_FSIZE, (4 * MIB, resource.RLIM_INFINITY))
    with pytest.raises(ResourceExhaustedError, match="no space left"):
        await BlobTransfers(stub).upload_bytes(large)
    assert files() == []
    await asyncio.to_thread(registry_process.wait_for_health, HealthCheckResponse.SERVING)
    small = await BlobTransfers(stub).upload_bytes(b"small")
    assert [path.name for path in files()] == [small.sha256]
    await stub.CreateModel(pb.CreateModelRequest(name="cells"))
    resource.prlimit(registry_process.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (await BlobTransfers(stub).upload_bytes(large)).size_bytes == len(large)


async def test_an_uploader_that_goes_away_leaves_nothing(registry_process: RegistryProcess) -> None:
    async def endless() -> AsyncIterator[pb.UploadBlobRequest]:
        yield pb.UploadBlobRequest(header=pb.BlobHeader(sha256="0" * 64, size_bytes=1 << 30))
        while True:
            yield pb.UploadBlobRequest(chunk=bytes(MIB))
            await asyncio.sleep(0.01)

    uploads = registry_process.blobs / "uploads"
    async with open_channel(registry_process.address) as channel:
        call = registry_pb2_grpc.RegistryServiceStub(channel).UploadBlob(endless())
        await until(lambda: any(path.stat().st_size > 4 * MIB for path in uploads.iterdir()))
    assert call.done()
    await until(lambda: not list(uploads.iterdir()))


@pytest.mark.slow
async def test_files_of_gigabytes_pass_through_a_registry_that_stays_small(registry_process: RegistryProcess, stub: Stub) -> None:
    count = 1024
    piece = bytes(range(256)) * 4096
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    process = psutil.Process(registry_process.process.pid)
    before = process.memory_info().rss
    peak = before

    async def sample() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.05)

    async def requests() -> AsyncIterator[pb.UploadBlobRequest]:
        yield pb.UploadBlobRequest(header=pb.BlobHeader(sha256=digest.hexdigest(), size_bytes=count * MIB))
        for _ in range(count):
            yield pb.UploadBlobRequest(chunk=piece)

    sampling = asyncio.create_task(sample())
    await stub.UploadBlob(requests())
    received = 0
    async for answer in stub.DownloadBlob(pb.DownloadBlobRequest(sha256=digest.hexdigest())):
        received += len(answer.chunk)
    sampling.cancel()
    assert received == count * MIB
    assert peak - before < count * MIB / 4  # mostly 40 MiB; gRPC keeps more in flight where both sides wait for a CPU
