"""S3 as blob store under trouble: wrong keys, no server, broken connections, wrong uploads."""

import os
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import urllib3
from moto.server import ThreadedMotoServer

from model_store.s3 import PART_BYTES, S3Store
from model_store.store import BlobRef
from tessera import fullness
from tessera.blob_files import CHUNK_BYTES
from tessera.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError, UnavailableError
from tests.fixtures.flaky import FlakyProxy, flaky_proxy
from tests.fixtures.ports import free_port
from tests.fixtures.s3 import S3Server
from tests.fixtures.waiting import blocking_until

HOUR = timedelta(hours=1)
DATA = os.urandom(3 * CHUNK_BYTES)
REF = BlobRef.of_bytes(DATA)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FlakyProxy]:
    with flaky_proxy(s3_server.endpoint) as found:
        yield found


@pytest.fixture
def flaky_store(s3_server: S3Server, s3_store: S3Store, proxy: FlakyProxy) -> S3Store:
    """The same bucket, reached through a proxy that can break connections."""
    return replace(s3_server, endpoint=proxy.address).store(s3_store._bucket)


def read(store: S3Store, ref: BlobRef) -> bytes:
    return b"".join(store.read(ref.sha256))


def put(url: str, data: bytes) -> int:
    return urllib3.request("PUT", url, body=data).status


def test_check_makes_a_missing_bucket_and_may_be_repeated(s3_server: S3Server) -> None:
    store = s3_server.store(f"tessera-{uuid.uuid4().hex}")
    store.check()
    store.check()
    store.write(REF, [DATA])
    assert read(store, REF) == DATA
    store.delete(REF.sha256)
    store._client.remove_bucket(store._bucket)


@pytest.mark.parametrize("wrong", [{"secret_key": "not-the-secret"}, {"access_key": "nobody"}])
def test_wrong_keys_are_refused_with_what_to_check(s3_server: S3Server, s3_store: S3Store, wrong: dict[str, str]) -> None:
    store = s3_server.store(s3_store._bucket, **wrong)
    with pytest.raises(UnavailableError, match="check the access key, the secret key"):
        store.check()
    for call in (lambda: store.write(REF, [DATA]), lambda: read(store, REF), lambda: store.stat(REF.sha256), lambda: list(store.list())):
        with pytest.raises(UnavailableError, match="check the access key, the secret key"):
            call()
    assert put(store.presign_upload(uuid.uuid4().hex, HOUR), DATA) == 403
    assert list(s3_store.list()) == []
    assert s3_store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=True) == 0


def test_no_server_is_unavailable(s3_server: S3Server) -> None:
    store = replace(s3_server, endpoint=f"127.0.0.1:{free_port()}").store("bucket")
    with pytest.raises(UnavailableError, match="cannot be reached"):
        store.check()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        store.stat(REF.sha256)


def test_a_bucket_that_is_gone_is_unavailable_and_never_an_empty_store(s3_server: S3Server) -> None:
    store = s3_server.store(f"tessera-{uuid.uuid4().hex}")
    with pytest.raises(UnavailableError, match="bucket of the S3 store is gone"):
        list(store.list())
    with pytest.raises(UnavailableError, match="bucket of the S3 store is gone"):
        store.write(REF, [DATA])


@pytest.mark.parametrize("faults", [["busy"], ["reset"], ["busy", "reset", "busy"]])
def test_a_busy_server_or_a_broken_connection_is_tried_again(flaky_store: S3Store, proxy: FlakyProxy, faults: list[str]) -> None:
    data = os.urandom(PART_BYTES + 1)
    ref = BlobRef.of_bytes(data)
    proxy.faults.extend(faults)
    flaky_store.write(ref, [data])
    assert not proxy.faults
    assert read(flaky_store, ref) == data


def test_a_server_that_stays_busy_is_unavailable(flaky_store: S3Store, proxy: FlakyProxy) -> None:
    proxy.faults.extend(["busy"] * 20)
    with pytest.raises(UnavailableError, match="503"):
        flaky_store.write(REF, [DATA])


def test_a_store_that_is_full_is_told_apart_and_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    time_s = 0.0
    monkeypatch.setattr(fullness, "time", SimpleNamespace(monotonic=lambda: time_s))
    with ThreadingHTTPServer(("127.0.0.1", 0), FullStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = S3Server(f"127.0.0.1:{server.server_port}", "any", "any").store("bucket")
        store.check()
        with pytest.raises(ResourceExhaustedError, match="the S3 store is full"):
            store.write(REF, [DATA])
        with pytest.raises(ResourceExhaustedError, match="the S3 store is full"):
            store.check()
        time_s = fullness.MEMORY_S
        store.check()
        server.shutdown()


class FullStore(BaseHTTPRequestHandler):
    """An S3 server that has a bucket but no room."""

    def do_HEAD(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.end_headers()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(HTTPStatus.INSUFFICIENT_STORAGE)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_read_goes_on_where_the_connection_broke(flaky_store: S3Store, s3_store: S3Store, proxy: FlakyProxy) -> None:
    s3_store.write(REF, [DATA])
    proxy.faults.extend([1_500_000, 1_000_000])
    assert read(flaky_store, REF) == DATA
    assert not proxy.faults


def test_a_connection_that_keeps_breaking_is_unavailable(flaky_store: S3Store, s3_store: S3Store, proxy: FlakyProxy) -> None:
    s3_store.write(REF, [DATA])
    proxy.faults.extend([100_000] * 20)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        read(flaky_store, REF)


def test_a_presigned_url_works_for_its_key_its_time_and_its_signature_only(s3_store: S3Store) -> None:
    url = s3_store.presign_upload("0" * 32, HOUR)
    assert put(url.replace("0" * 32, "1" * 32), DATA) == 403
    assert put(url[:-4] + ("beef" if not url.endswith("beef") else "cafe"), DATA) == 403
    s3_store.write(REF, [DATA])
    short = s3_store.presign_download(REF.sha256, timedelta(seconds=1))
    assert urllib3.request("GET", s3_store.presign_download(REF.sha256, HOUR)).data == DATA
    blocking_until(lambda: urllib3.request("GET", short).status in (400, 403))


@pytest.mark.parametrize("sent", [DATA[:-1], DATA + b"x", b"", b"x" * len(DATA)], ids=["short", "long", "empty", "other"])
def test_a_wrong_upload_is_refused_and_removed(s3_store: S3Store, sent: bytes) -> None:
    upload_id = uuid.uuid4().hex
    assert put(s3_store.presign_upload(upload_id, HOUR), sent) == 200
    with pytest.raises(InvalidArgumentError):
        s3_store.complete_upload(upload_id, REF)
    assert list(s3_store.list()) == []
    assert s3_store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=True) == 0


def test_an_upload_that_never_came_is_not_found(s3_store: S3Store) -> None:
    with pytest.raises(NotFoundError, match="PUT the blob to its URL first"):
        s3_store.complete_upload(uuid.uuid4().hex, REF)
    for bad in ("", "../blobs/sha256/x", "A" * 32):
        with pytest.raises(InvalidArgumentError, match="upload id"):
            s3_store.complete_upload(bad, REF)


def test_completing_an_upload_may_be_repeated(s3_store: S3Store) -> None:
    upload_id = uuid.uuid4().hex
    put(s3_store.presign_upload(upload_id, HOUR), DATA)
    s3_store.complete_upload(upload_id, REF)
    s3_store.complete_upload(upload_id, REF)
    assert read(s3_store, REF) == DATA


def test_a_url_that_is_used_again_after_completion_does_not_change_the_blob(s3_store: S3Store) -> None:
    upload_id = uuid.uuid4().hex
    url = s3_store.presign_upload(upload_id, HOUR)
    put(url, DATA)
    s3_store.complete_upload(upload_id, REF)
    assert put(url, b"something else") == 200
    assert read(s3_store, REF) == DATA
    assert s3_store.delete_uploads(datetime.now(UTC) - HOUR, dry_run=False) == 0, "it is young"
    assert s3_store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=True) == 1
    assert s3_store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=False) == 1
    assert s3_store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=False) == 0
    assert read(s3_store, REF) == DATA


def test_foreign_objects_are_not_listed(s3_store: S3Store) -> None:
    put(s3_store._client.presigned_put_object(s3_store._bucket, "blobs/sha256/no/notes.txt"), b"mine")
    assert list(s3_store.list()) == []


def test_a_large_blob_is_written_and_read_in_constant_memory(s3_server: S3Server, s3_store: S3Store) -> None:
    script = """
        import hashlib, sys
        from pathlib import Path
        from model_store.s3 import S3Store
        from model_store.store import BlobRef

        def peak_kib():
            # Not ru_maxrss, which a child inherits from the process that started it.
            return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))

        def chunks():
            for number in range(256):
                yield number.to_bytes(4, "big") * (1 << 18)

        endpoint, access_key, secret_key, bucket = sys.argv[1:]
        store = S3Store(bucket, endpoint=endpoint, access_key=access_key, secret_key=secret_key, region="us-east-1", secure=False)
        digest = hashlib.sha256()
        for chunk in chunks():
            digest.update(chunk)
        ref = BlobRef(digest.hexdigest(), 256 << 20)
        store.check()
        before = peak_kib()
        store.write(ref, chunks())
        read = sum(map(len, store.read(ref.sha256)))
        print(read, peak_kib() - before)
    """
    arguments = [s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_store._bucket]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    read_bytes, grown_kib = map(int, done.stdout.split())
    assert read_bytes == 256 << 20
    assert grown_kib < 64 << 10


def test_the_parts_that_a_killed_writer_left_are_removed_once_they_are_old() -> None:
    # rclone does not list unfinished uploads; moto does, and calls all of them begun in 2010.
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = S3Server(f"{host}:{port}", "any", "any").store("bucket")
        store.check()
        key = "blobs/sha256/aa/x"
        upload_id = store._client._create_multipart_upload("bucket", key, {})
        store._client._upload_part("bucket", key, bytes(PART_BYTES), None, upload_id, 1)
        assert store.delete_uploads(datetime(2009, 1, 1, tzinfo=UTC), dry_run=False) == 0
        assert store.delete_uploads(datetime.now(UTC), dry_run=True) == 1
        assert store.delete_uploads(datetime.now(UTC), dry_run=False) == 1
        assert store.delete_uploads(datetime.now(UTC), dry_run=False) == 0
    finally:
        server.stop()
