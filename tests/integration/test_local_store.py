"""The directory as blob store under trouble: full disks, killed writers, large blobs."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_store.factory import open_store
from model_store.local import LocalStore
from model_store.s3 import S3Store
from model_store.store import BlobRef
from tessera.blob_files import CHUNK_BYTES, VerifiedFile
from tessera.errors import DataLossError, InvalidArgumentError, UnavailableError

HOUR = timedelta(hours=1)
IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "--"]


def _can_mount() -> bool:
    """Tell whether this machine lets us mount a small filesystem without being root."""
    command = [*IN_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def run(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> str:
    command = [*prefix, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


FILL = """
    import errno, io, os, resource, sys
    from pathlib import Path
    from model_store.local import LocalStore
    from model_store.store import BlobRef
    from tessera.errors import ResourceExhaustedError

    root, trouble, limit = Path(sys.argv[1]), sys.argv[2], 1 << 20

    class FullDisk(io.FileIO):
        def write(self, data):
            room = limit - self.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[:room])

    if trouble == "file size limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    elif trouble != "full tmpfs":
        os.fdopen = lambda descriptor, mode, buffering: FullDisk(descriptor, mode)
    store = LocalStore(root)
    small, large = b"small", bytes(8 << 20)
    store.write(BlobRef.of_bytes(small), [small])
    try:
        store.write(BlobRef.of_bytes(large), [large[:1000], large[1000:]])
    except ResourceExhaustedError as error:
        print("refused:", error.message)
    print("files:", len([path for path in root.rglob("*") if path.is_file()]))
    print("small:", b"".join(store.read(BlobRef.of_bytes(small).sha256)) == small)
    store.check()
"""


def assert_full(output: str, reason: str) -> None:
    refused, files, small = output.splitlines()
    assert refused.startswith("refused: no space left")
    assert reason in refused
    assert (files, small) == ("files: 1", "small: True")


@pytest.mark.parametrize(
    "trouble", ["file size limit", "full tmpfs" if _can_mount() else "ENOSPC injected at the write call, for want of a tmpfs"]
)
def test_a_blob_that_finds_no_space_is_refused_and_leaves_nothing(tmp_path: Path, trouble: str) -> None:
    shell = ("sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', str(tmp_path))
    prefix = (*IN_NAMESPACE, *shell) if trouble == "full tmpfs" else ()
    reason = errno.EFBIG if trouble == "file size limit" else errno.ENOSPC
    assert_full(run(FILL, tmp_path, trouble, prefix=prefix), os.strerror(reason))


def test_a_killed_writer_leaves_no_blob_and_its_rest_is_removed_once_it_is_old(tmp_path: Path) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from model_store.local import LocalStore
        from model_store.store import BlobRef

        def chunks():
            yield b"half"
            print("written", flush=True)
            time.sleep(600)

        LocalStore(Path(sys.argv[1])).write(BlobRef.of_bytes(b"half and half"), chunks())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    store = LocalStore(tmp_path)
    assert list(store.list()) == []
    assert len(files_below(tmp_path)) == 1
    assert store.delete_uploads(datetime.now(UTC) - HOUR, dry_run=False) == 0, "it could still be written"
    assert store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=True) == 1
    assert len(files_below(tmp_path)) == 1
    assert store.delete_uploads(datetime.now(UTC) + HOUR, dry_run=False) == 1
    assert files_below(tmp_path) == []


def test_a_gibibyte_is_written_and_read_in_constant_memory(tmp_path: Path) -> None:
    script = """
        import hashlib, sys
        from pathlib import Path
        from model_store.local import LocalStore
        from model_store.store import BlobRef

        def peak_kib():
            # Not ru_maxrss, which a child inherits from the process that started it.
            return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))

        def chunks():
            for number in range(1024):
                yield number.to_bytes(4, "big") * (1 << 18)

        store = LocalStore(Path(sys.argv[1]))
        digest = hashlib.sha256()
        for chunk in chunks():
            digest.update(chunk)
        ref = BlobRef(digest.hexdigest(), 1 << 30)
        before = peak_kib()
        store.write(ref, chunks())
        read = sum(map(len, store.read(ref.sha256)))
        store.delete(ref.sha256)
        print(read, peak_kib() - before)
    """
    read, grown_kib = map(int, run(script, tmp_path).split())
    assert read == 1 << 30
    assert grown_kib < 16 << 10


def test_readers_see_a_whole_blob_while_it_is_written_anew(tmp_path: Path) -> None:
    store, data = LocalStore(tmp_path), os.urandom(CHUNK_BYTES + 1)
    ref = BlobRef.of_bytes(data)
    store.write(ref, [data])
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(store.write, ref, [data]) for _ in range(20)]
        readers = [pool.submit(lambda: b"".join(store.read(ref.sha256))) for _ in range(20)]
        assert all(reader.result() == data for reader in readers)
        assert all(writer.result() is None for writer in writers)


def test_a_blob_lies_under_its_digest_so_that_people_can_check_it(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"data").hexdigest()
    LocalStore(tmp_path).write(BlobRef(digest, 4), [b"data"])
    assert files_below(tmp_path) == [tmp_path / "blobs" / "sha256" / digest[:2] / digest]


def test_foreign_files_are_neither_listed_nor_removed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(BlobRef.of_bytes(b"data"), [b"data"])
    folder = next((tmp_path / "blobs" / "sha256").iterdir())
    (folder / "notes.txt").write_text("mine")
    assert [info.sha256 for info in store.list()] == [BlobRef.of_bytes(b"data").sha256]


def test_a_root_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnavailableError, match=r"File exists|Not a directory"):
        LocalStore(tmp_path / "file")


def test_a_store_whose_folder_is_replaced_by_a_file_is_not_ready(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "store" / "uploads").rmdir()
    (tmp_path / "store" / "uploads").write_text("in the way")
    with pytest.raises(UnavailableError):
        store.check()


def test_a_file_takes_its_place_only_when_it_is_right(tmp_path: Path) -> None:
    destination = tmp_path / "file"
    destination.write_bytes(b"old")
    with pytest.raises(DataLossError), VerifiedFile(BlobRef.of_bytes(b"new"), destination) as file:
        file.write(b"neu")
        file.commit()
    assert [(path, path.read_bytes()) for path in files_below(tmp_path)] == [(destination, b"old")]
    with VerifiedFile(BlobRef.of_bytes(b"new"), destination) as file:
        file.write(b"ne")
        file.restart()
        file.write(b"new")
        file.commit()
    assert [(path, path.read_bytes()) for path in files_below(tmp_path)] == [(destination, b"new")]


def test_a_blob_is_named_by_digest_and_size_within_limits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    assert BlobRef.of_file(tmp_path / "file") == BlobRef.of_bytes(b"data")
    for bad in [("a" * 64, -1), ("a" * 64, (2 << 30) + 1), ("b" * 63, 1)]:
        with pytest.raises(InvalidArgumentError):
            BlobRef(*bad)
    with pytest.raises(InvalidArgumentError, match="cannot read"):
        BlobRef.of_file(tmp_path / "missing")


@pytest.mark.parametrize(
    "url", ["", "file://relative", "file:relative", "/plain/path", "s3://", "s3://bucket/prefix", "http://host/x", "s3:bucket"]
)
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="file:///absolute/directory or s3://bucket"):
        open_store(url)


def test_urls_name_stores(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    keys = {"s3_access_key": "key", "s3_secret_key": "secret"}
    assert isinstance(open_store("s3://bucket", s3_endpoint="localhost:9000", **keys), S3Store)
    for url, settings in [("s3://B", keys), ("s3://bucket", {}), ("s3://bucket", keys | {"s3_endpoint": "http://localhost:9000"})]:
        with pytest.raises(InvalidArgumentError):
            open_store(url, **settings)
