"""Blobs into an archive and back, by the real command, from a directory into an S3 server and the other way round."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from model_store.local import LocalStore
from model_store.s3 import S3Store
from model_store.store import BlobStore
from services.registry.archive import unpack
from tessera.blob_files import CHUNK_BYTES, BlobRef
from tessera.errors import InvalidArgumentError
from tests.fixtures.s3 import S3Server

DATA = [b"", b"a blob", os.urandom(CHUNK_BYTES + 7)]


def put(store: BlobStore, data: bytes) -> BlobRef:
    ref = BlobRef.of_bytes(data)
    store.write(ref, [data])
    return ref


def contents(store: BlobStore) -> dict[str, bytes]:
    return {blob.sha256: b"".join(store.read(blob.sha256)) for blob in store.list()}


def archive(command: str, given: bytes, **settings: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"TESSERA_REGISTRY_DATABASE_URL": "sqlite:////nowhere/registry.db"}
    environment |= {f"TESSERA_REGISTRY_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "services.registry.archive", command],
        input=given,
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_a_directory_moves_into_s3_and_what_a_backup_holds_is_left_out(tmp_path: Path, s3_server: S3Server, s3_store: S3Store) -> None:
    source = LocalStore(tmp_path / "blobs")
    refs = [put(source, data) for data in DATA]
    packed = archive("pack", f"{refs[1].sha256}\n".encode(), blob_store=f"file://{tmp_path / 'blobs'}")
    assert (packed.returncode, packed.stderr) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as found:
        assert sorted(found.getnames()) == sorted([refs[0].sha256, refs[2].sha256])

    settings = {
        "blob_store": f"s3://{s3_store._bucket}",
        "s3_endpoint": s3_server.endpoint,
        "s3_access_key": s3_server.access_key,
        "s3_secret_key": s3_server.secret_key,
        "s3_secure": "false",
    }
    unpacked = archive("unpack", packed.stdout, **settings)
    assert (unpacked.returncode, unpacked.stdout) == (0, b"2 blobs stored\n"), unpacked.stderr
    assert contents(s3_store) == {refs[0].sha256: DATA[0], refs[2].sha256: DATA[2]}

    back = archive("pack", b"", **settings)
    assert archive("unpack", back.stdout, blob_store=f"file://{tmp_path / 'other'}").returncode == 0
    assert contents(LocalStore(tmp_path / "other")) == contents(s3_store)


def test_a_damaged_blob_is_named_and_left_out_and_the_others_are_saved(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    good, bad = put(store, b"good"), put(store, b"bad")
    (tmp_path / "blobs" / "sha256" / bad.sha256[:2] / bad.sha256).write_bytes(b"BAD")
    packed = archive("pack", b"", blob_store=f"file://{tmp_path}")
    assert packed.returncode == 1
    assert f"blob {bad.sha256} is damaged".encode() in packed.stderr
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as found:
        assert found.getnames() == [good.sha256]


def test_wrong_bytes_and_what_is_no_archive_are_refused_in_one_line(tmp_path: Path) -> None:
    wrong = io.BytesIO()
    with tarfile.open(fileobj=wrong, mode="w") as made:
        member = tarfile.TarInfo("0" * 64)
        member.size = 4
        made.addfile(member, io.BytesIO(b"data"))
    store = LocalStore(tmp_path)
    for given, said in ((wrong.getvalue(), "sha256"), (b"no archive" * 100, "no whole tar archive"), (wrong.getvalue()[:514], "archive")):
        with pytest.raises(InvalidArgumentError, match=said):
            unpack(store, io.BytesIO(given))
    refused = archive("unpack", wrong.getvalue(), blob_store=f"file://{tmp_path}")
    assert (refused.returncode, refused.stderr.count(b"\n")) == (1, 1), refused.stderr
    assert contents(store) == {}
