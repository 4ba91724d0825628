"""The registry over gRPC: blobs in and out, bad requests, interrupted uploads, events."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from model_store.local import LocalStore
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.blobs import BlobTransfers
from tessera.errors import ConflictError, DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError, TesseraError
from tessera.rpc.ending import answer_of
from tessera.rpc.status import rpc_errors
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryServer, serve_registry
from tests.fixtures.s3 import S3Server
from tests.fixtures.waiting import until

MIB = 1 << 20


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def header(data: bytes, **changes: object) -> pb.UploadBlobRequest:
    return pb.UploadBlobRequest(header=pb.BlobHeader(**({"sha256": sha256(data), "size_bytes": len(data)} | changes)))


def chunk(data: bytes) -> pb.UploadBlobRequest:
    return pb.UploadBlobRequest(chunk=data)


async def upload(server: RegistryServer, *requests: pb.UploadBlobRequest) -> pb.UploadBlobResponse:
    with rpc_errors():
        return await answer_of(server.stub.UploadBlob(iter(requests)))


async def download(server: RegistryServer, digest: str) -> bytes:
    with rpc_errors():
        return b"".join([answer.chunk async for answer in server.stub.DownloadBlob(pb.DownloadBlobRequest(sha256=digest))])


def leftovers(server: RegistryServer) -> list[Path]:
    root: Path = server.store._root
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 7])
async def test_a_blob_comes_back_as_it_was_sent(registry_server: RegistryServer, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    begin = pb.BeginUploadRequest(sha256=sha256(data), size_bytes=size)
    assert (await registry_server.stub.BeginUpload(begin)).stream
    pieces = [chunk(data[start : start + MIB]) for start in range(0, size, MIB)]
    assert (await upload(registry_server, header(data), *pieces)).sha256 == sha256(data)
    assert (await registry_server.stub.BeginUpload(begin)).exists
    located = await registry_server.stub.GetDownload(pb.GetDownloadRequest(sha256=sha256(data)))
    assert (located.stream, located.size_bytes) == (True, size)
    assert await download(registry_server, sha256(data)) == data


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [chunk(b"abc")],
        [header(b"abc"), header(b"abc")],
        [header(b"abc"), chunk(b"ab")],
        [header(b"abc"), chunk(b"abd")],
        [header(b"abc"), chunk(b"abcd")],
        [header(b"abc", sha256="ABC"), chunk(b"abc")],
        [header(b"abc", size_bytes=-1), chunk(b"abc")],
        [header(b"abc", size_bytes=(2 << 30) + 1), chunk(b"abc")],
        [header(bytes(MIB + 1)), chunk(bytes(MIB + 1))],
    ],
)
async def test_a_wrong_upload_is_refused_and_leaves_nothing(registry_server: RegistryServer, requests: list[pb.UploadBlobRequest]) -> None:
    with pytest.raises(InvalidArgumentError):
        await upload(registry_server, *requests)
    assert leftovers(registry_server) == []


async def test_an_upload_that_breaks_off_leaves_nothing(registry_server: RegistryServer) -> None:
    data = bytes(8 * MIB)

    async def half() -> AsyncIterator[pb.UploadBlobRequest]:
        yield header(data)
        for _ in range(4):
            yield chunk(data[:MIB])
        await asyncio.Event().wait()

    call = registry_server.stub.UploadBlob(half())
    sending = asyncio.ensure_future(call.wait_for_connection())
    await until(lambda: len(leftovers(registry_server)) == 1)
    await sending
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: leftovers(registry_server) == [])
    assert (await registry_server.stub.BeginUpload(pb.BeginUploadRequest(sha256=sha256(data), size_bytes=len(data)))).stream


async def test_a_download_that_breaks_off_harms_nobody(registry_server: RegistryServer) -> None:
    data = bytes(16 * MIB)
    await upload(registry_server, header(data), *[chunk(bytes(MIB))] * 16)
    call = registry_server.stub.DownloadBlob(pb.DownloadBlobRequest(sha256=sha256(data)))
    async for _ in call:
        break
    call.cancel()
    assert await download(registry_server, sha256(data)) == data


async def test_a_flipped_byte_ends_a_download_with_data_loss(registry_server: RegistryServer) -> None:
    data = bytes(2 * MIB)
    await upload(registry_server, header(data), chunk(data[:MIB]), chunk(data[MIB:]))
    (path,) = leftovers(registry_server)
    path.chmod(0o644)
    path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(DataLossError):
        await download(registry_server, sha256(data))


async def test_errors_keep_their_class_and_field_on_the_way(registry_server: RegistryServer) -> None:
    stub = registry_server.stub
    await stub.CreateModel(pb.CreateModelRequest(name="cells"))
    calls: list[tuple[Callable[[], object], type[TesseraError], str]] = [
        (lambda: stub.GetModel(pb.GetModelRequest(name="dots")), NotFoundError, "name"),
        (lambda: stub.GetModel(pb.GetModelRequest()), InvalidArgumentError, "name"),
        (lambda: stub.ListVersions(pb.ListVersionsRequest(filter="weight > 1")), InvalidArgumentError, "filter"),
        (lambda: stub.ListVersions(pb.ListVersionsRequest(page_token="x")), InvalidArgumentError, "page_token"),
        (lambda: stub.SetAlias(pb.SetAliasRequest(model="cells", alias="a", version=1)), NotFoundError, "version"),
        (lambda: stub.AcquireLease(pb.AcquireLeaseRequest(holder="me", ttl=Duration(seconds=5))), InvalidArgumentError, "target"),
        (lambda: stub.AcquireLease(pb.AcquireLeaseRequest(ttl=Duration(seconds=1 << 62))), InvalidArgumentError, "ttl"),
        (lambda: stub.CollectGarbage(pb.CollectGarbageRequest(grace=Duration(seconds=59))), InvalidArgumentError, "grace"),
        (lambda: stub.CreateVersion(pb.CreateVersionRequest(model="cells", manifest_json=b"{}")), InvalidArgumentError, "manifest.model"),
        (lambda: stub.GetDownload(pb.GetDownloadRequest(sha256="0" * 64)), NotFoundError, "sha256"),
        (lambda: stub.GetDownload(pb.GetDownloadRequest(sha256="../../etc/passwd")), InvalidArgumentError, "sha256"),
    ]
    for call, error, field in calls:
        with pytest.raises(error) as caught, rpc_errors():
            await call()
        assert caught.value.field == field
    manifest = Artifact().store(registry_server.store)
    await stub.CreateVersion(pb.CreateVersionRequest(model="cells", manifest_json=manifest))
    await stub.SetAlias(pb.SetAliasRequest(model="cells", alias="champion", version=1, expected_version=0))
    with pytest.raises(ConflictError), rpc_errors():
        await stub.SetAlias(pb.SetAliasRequest(model="cells", alias="champion", version=1, expected_version=0))
    with pytest.raises(FailedPreconditionError, match="champion"), rpc_errors():
        await stub.DeleteVersion(pb.DeleteVersionRequest(model="cells", version=1))


async def test_a_watcher_sees_what_was_and_what_comes_and_can_take_up_anywhere(registry_server: RegistryServer) -> None:
    stub = registry_server.stub
    for name in ("cells", "dots"):
        await stub.CreateModel(pb.CreateModelRequest(name=name))
    watching = aiter(stub.Watch(pb.WatchRequest()))
    kinds = [(await anext(watching)).WhichOneof("event") for _ in range(3)]
    assert kinds == ["model_changed", "model_changed", None], "a bookmark says that the past is over"
    manifest = Artifact().store(registry_server.store)
    await stub.CreateVersion(pb.CreateVersionRequest(model="cells", manifest_json=manifest))
    await stub.SetAlias(pb.SetAliasRequest(model="cells", alias="champion", version=1))
    await stub.DeleteModel(pb.DeleteModelRequest(name="dots"))
    following = [await anext(watching) for _ in range(3)]
    assert [event.revision for event in following] == [3, 4, 5]
    assert (following[0].version_changed.digest, following[0].version_changed.manifest_json) != ("", b"")
    assert (following[1].alias_changed.to_version, following[2].model_deleted) == (1, "dots")
    only = aiter(stub.Watch(pb.WatchRequest(since_revision=1, model="dots")))
    events = [await anext(only) for _ in range(3)]
    assert [event.revision for event in events] == [2, 5, 5]
    assert events[2].WhichOneof("event") is None
    with pytest.raises(FailedPreconditionError, match="has not happened"), rpc_errors():
        await anext(aiter(stub.Watch(pb.WatchRequest(since_revision=99))))
    with pytest.raises(InvalidArgumentError), rpc_errors():
        await anext(aiter(stub.Watch(pb.WatchRequest(since_revision=-1))))


async def test_a_watcher_of_one_replica_sees_what_another_one_changes(postgres_url: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "blobs")
    async with serve_registry(postgres_url, store) as one, serve_registry(postgres_url, store) as other:
        watching = aiter(one.stub.Watch(pb.WatchRequest()))
        assert (await anext(watching)).revision == 0
        for index in range(5):
            await (one, other)[index % 2].stub.CreateModel(pb.CreateModelRequest(name=f"m{index}"))
        assert [(await anext(watching)).model_changed.name for _ in range(5)] == [f"m{index}" for index in range(5)]


async def test_with_s3_blobs_go_by_presigned_urls(sqlite_url: str, s3_server: S3Server, tmp_path: Path) -> None:
    store = s3_server.store("registry-presigned")
    await asyncio.to_thread(store.check)
    async with serve_registry(sqlite_url, store) as server:
        files = Artifact().files()
        for data in files.values():
            begin = await server.stub.BeginUpload(pb.BeginUploadRequest(sha256=sha256(data), size_bytes=len(data)))
            assert begin.WhichOneof("method") in ("presigned", "exists")
            ref = await BlobTransfers(server.stub).upload_bytes(data)
            assert (await server.stub.BeginUpload(pb.BeginUploadRequest(sha256=ref.sha256, size_bytes=len(data)))).exists
        await server.stub.CreateModel(pb.CreateModelRequest(name="cells"))
        made = await server.stub.CreateVersion(pb.CreateVersionRequest(model="cells", manifest_json=Artifact().manifest()))
        assert made.version.version == 1
        located = await server.stub.GetDownload(pb.GetDownloadRequest(sha256=ref.sha256))
        assert located.presigned_url.startswith("http")
        await BlobTransfers(server.stub).download_file(ref, tmp_path / "golden")
        assert (tmp_path / "golden").read_bytes() == files["golden.safetensors"]
        assert (await server.stub.VerifyVersion(pb.VerifyVersionRequest(model="cells", version=1))).intact


def test_the_registry_loads_no_tensor_library() -> None:
    code = "import sys, services.registry.__main__; print({'torch', 'onnxruntime', 'tensorflow', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


async def test_an_unknown_method_is_unimplemented(registry_server: RegistryServer) -> None:
    call = registry_server.channel.unary_unary("/tessera.api.registry.v1.RegistryService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
