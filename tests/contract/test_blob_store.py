"""What every blob store promises; each test runs on the local directory and on every S3 server that the tests have."""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3

from model_store.local import LocalStore
from model_store.s3 import PART_BYTES, S3Store
from model_store.store import BlobRef, BlobStore
from tessera.blob_files import CHUNK_BYTES
from tessera.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from tests.fixtures.s3 import SERVERS, own_bucket

HOUR = timedelta(hours=1)
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 2 * PART_BYTES + 77]


@dataclass(frozen=True)
class Case:
    """A store, and how to damage a blob behind its back."""

    store: BlobStore
    overwrite: Callable[[str, bytes], None]


@pytest.fixture(params=["local", *SERVERS])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "local":
        yield local_case(tmp_path / "store")
        return
    with own_bucket(request.getfixturevalue(request.param)) as store:
        yield s3_case(store)


def local_case(root: Path) -> Case:
    return Case(LocalStore(root), lambda sha256, data: (root / "blobs" / "sha256" / sha256[:2] / sha256).write_bytes(data))


def s3_case(store: S3Store) -> Case:
    def overwrite(sha256: str, data: bytes) -> None:
        url = store._client.presigned_put_object(store._bucket, f"blobs/sha256/{sha256[:2]}/{sha256}")
        assert urllib3.request("PUT", url, body=data).status == 200

    return Case(store, overwrite)


def pieces(data: bytes, size: int = 300_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def put(store: BlobStore, data: bytes) -> BlobRef:
    ref = BlobRef.of_bytes(data)
    store.write(ref, pieces(data))
    return ref


def get(store: BlobStore, sha256: str) -> bytes:
    return b"".join(store.read(sha256))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read_in_chunks_of_at_most_a_mebibyte(case: Case, size: int) -> None:
    data = os.urandom(size)
    ref = put(case.store, data)
    chunks = list(case.store.read(ref.sha256))
    assert b"".join(chunks) == data
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)


def test_stat_tells_size_and_time(case: Case) -> None:
    ref = put(case.store, b"some bytes")
    info = case.store.stat(ref.sha256)
    assert (info.sha256, info.size_bytes) == (ref.sha256, 10)
    assert abs(info.modify_time - datetime.now(UTC)) < HOUR


def test_an_unknown_blob_has_no_stat_and_cannot_be_read(case: Case) -> None:
    unknown = hashlib.sha256(b"never stored").hexdigest()
    assert case.store.stat(unknown) is None
    with pytest.raises(NotFoundError, match=unknown):
        get(case.store, unknown)


def test_writing_the_same_blob_twice_stores_it_once(case: Case) -> None:
    ref = put(case.store, b"twice")
    assert put(case.store, b"twice") == ref
    assert [info.sha256 for info in case.store.list()] == [ref.sha256]


def test_list_names_every_blob_and_nothing_else(case: Case) -> None:
    refs = {put(case.store, bytes([number])) for number in range(5)}
    case.store.presign_upload(uuid.uuid4().hex, HOUR)
    assert {BlobRef(info.sha256, info.size_bytes) for info in case.store.list()} == refs


def test_delete_removes_a_blob_and_may_be_repeated(case: Case) -> None:
    ref = put(case.store, b"short-lived")
    case.store.delete(ref.sha256)
    case.store.delete(ref.sha256)
    assert case.store.stat(ref.sha256) is None


@pytest.mark.parametrize("size", [100, 2 * PART_BYTES + 77])
@pytest.mark.parametrize("wrong", ["too short", "too long", "empty", "other bytes"])
def test_bytes_other_than_announced_are_refused_and_leave_nothing(case: Case, size: int, wrong: str) -> None:
    data = os.urandom(size)
    sent = {"too short": data[:-1], "too long": data + b"x", "empty": b"", "other bytes": b"x" * size}[wrong]
    with pytest.raises(InvalidArgumentError) as refused:
        case.store.write(BlobRef.of_bytes(data), pieces(sent))
    assert refused.value.field == ("sha256" if wrong == "other bytes" else "size_bytes")
    assert list(case.store.list()) == []
    assert case.store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=True) == 0


def test_an_announced_empty_blob_that_brings_bytes_is_refused(case: Case) -> None:
    with pytest.raises(InvalidArgumentError):
        case.store.write(BlobRef.of_bytes(b""), [b"x"])
    assert list(case.store.list()) == []


@pytest.mark.parametrize("size", [100, 2 * PART_BYTES + 77])
def test_an_interrupted_sender_leaves_nothing_and_its_error_passes_through(case: Case, size: int) -> None:
    data = os.urandom(size)

    def broken() -> Iterator[bytes]:
        yield from pieces(data[: size // 2])
        raise ConnectionAbortedError("the sender is gone")

    with pytest.raises(ConnectionAbortedError, match="the sender is gone"):
        case.store.write(BlobRef.of_bytes(data), broken())
    assert list(case.store.list()) == []
    assert case.store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=True) == 0


def test_an_endless_sender_is_stopped(case: Case) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(CHUNK_BYTES)

    with pytest.raises(InvalidArgumentError, match="has more than its 100 bytes"):
        case.store.write(BlobRef.of_bytes(bytes(100)), endless())


@pytest.mark.parametrize("size", [10, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("where", [0, -1])
def test_a_flipped_byte_is_found_when_it_is_read(case: Case, size: int, where: int) -> None:
    data = bytearray(os.urandom(size))
    ref = put(case.store, bytes(data))
    data[where] ^= 1
    case.overwrite(ref.sha256, bytes(data))
    with pytest.raises(DataLossError, match=ref.sha256):
        get(case.store, ref.sha256)


def test_a_truncated_blob_is_found_when_it_is_read_and_healed_when_it_is_written_again(case: Case) -> None:
    data = os.urandom(100)
    ref = put(case.store, data)
    case.overwrite(ref.sha256, data[:50])
    with pytest.raises(DataLossError):
        get(case.store, ref.sha256)
    put(case.store, data)
    assert get(case.store, ref.sha256) == data


@pytest.mark.parametrize("bad", ["", "abc", "A" * 64, "../../../../etc/passwd", "g" * 64, "a" * 65, "a" * 63 + "\n"])
def test_a_malformed_digest_is_refused_everywhere(case: Case, bad: str) -> None:
    for call in (case.store.stat, case.store.delete, lambda digest: get(case.store, digest)):
        with pytest.raises(InvalidArgumentError, match="64 lower-case hexadecimal digits"):
            call(bad)


def test_many_writers_of_one_blob_and_then_its_readers_do_not_disturb_each_other(case: Case) -> None:
    data = os.urandom(CHUNK_BYTES + 1)
    with ThreadPoolExecutor(8) as pool:
        refs = set(pool.map(lambda _: put(case.store, data), range(8)))
        assert refs == {BlobRef.of_bytes(data)}
        assert set(pool.map(lambda _: get(case.store, next(iter(refs)).sha256), range(8))) == {data}
    assert [info.sha256 for info in case.store.list()] == [ref.sha256 for ref in refs]


def test_a_reader_that_stops_early_releases_what_it_held(case: Case) -> None:
    ref = put(case.store, os.urandom(3 * CHUNK_BYTES))
    chunks = case.store.read(ref.sha256)
    next(chunks)
    chunks.close()
    case.store.delete(ref.sha256)
    assert case.store.stat(ref.sha256) is None


def test_check_passes_on_a_store_that_works(case: Case) -> None:
    case.store.check()


def test_presigned_uploads_are_all_or_nothing_where_the_store_has_them(case: Case) -> None:
    data = os.urandom(CHUNK_BYTES + 5)
    ref, upload_id = BlobRef.of_bytes(data), uuid.uuid4().hex
    url = case.store.presign_upload(upload_id, HOUR)
    if url is None:
        with pytest.raises(FailedPreconditionError, match="UploadBlob"):
            case.store.complete_upload(upload_id, ref)
        assert case.store.presign_download(ref.sha256, HOUR) is None
        return
    assert urllib3.request("PUT", url, body=data).status == 200
    assert case.store.stat(ref.sha256) is None, "an upload counts only once it is verified"
    case.store.complete_upload(upload_id, ref)
    assert get(case.store, ref.sha256) == data
    assert urllib3.request("GET", case.store.presign_download(ref.sha256, HOUR)).data == data
    assert case.store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=True) == 0
