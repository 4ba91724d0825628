"""The cache of version files over a real registry, shared with other processes, and how it is kept small."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import get_args

import grpc
import pytest

from model_store.artifact_files import Role
from model_store.manifest import Manifest
from model_store.version_files import materialize, prune
from tessera.blobs import BlobTransfers
from tessera.errors import DataLossError, UnavailableError
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryServer

HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_SH)
print("held", flush=True)
sys.stdin.read()
"""


def below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def a_folder(cache: Path, digit: str, size_bytes: int, used: int) -> Path:
    """Make the folder of a version that was used at a time."""
    folder = cache / (digit * 64)
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "model.onnx").write_bytes(bytes(size_bytes))
    os.utime(folder, (used, used))
    return folder


async def a_version(registry_server: RegistryServer) -> tuple[Manifest, dict[str, bytes]]:
    artifact = Artifact()
    for data in artifact.files().values():
        await BlobTransfers(registry_server.stub).upload_bytes(data)
    return Manifest.parse(artifact.manifest()), artifact.files()


async def fetch(registry_server: RegistryServer, manifest: Manifest, cache: Path, roles: Collection[Role] = get_args(Role)) -> Path:
    wanted = [file for file in manifest.files if file.role in roles]
    with await materialize(BlobTransfers(registry_server.stub), manifest, cache, wanted) as files:
        return files.folder


async def test_the_files_of_a_version_lie_where_its_manifest_says(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, files = await a_version(registry_server)
    folder = await fetch(registry_server, manifest, tmp_path / "cache")
    assert folder == tmp_path / "cache" / manifest.digest()
    assert {str(path.relative_to(folder)): path.read_bytes() for path in below(folder)} == files


async def test_only_files_in_the_roles_asked_for_are_fetched(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, _ = await a_version(registry_server)
    for roles in ({"golden"}, {"graph", "golden"}):
        folder = await fetch(registry_server, manifest, tmp_path / "cache", roles)
        assert {str(path.relative_to(folder)) for path in below(folder)} == {file.path for file in manifest.files if file.role in roles}


async def test_files_that_are_there_need_no_registry(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, files = await a_version(registry_server)
    await fetch(registry_server, manifest, tmp_path / "cache")
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nowhere:
        with await materialize(BlobTransfers(type(registry_server.stub)(nowhere)), manifest, tmp_path / "cache", manifest.files) as version:
            assert len(below(version.folder)) == len(files)


@pytest.mark.parametrize("damage", ["flipped", "short", "removed", "folder"])
async def test_a_damaged_file_in_the_cache_is_fetched_again(registry_server: RegistryServer, tmp_path: Path, damage: str) -> None:
    manifest, files = await a_version(registry_server)
    path = await fetch(registry_server, manifest, tmp_path / "cache") / "weights.safetensors"
    data = files["weights.safetensors"]
    if damage in ("removed", "folder"):
        path.unlink()
    if damage == "folder":
        path.parent.rename(tmp_path / "moved away")
    if damage in ("flipped", "short"):
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage == "flipped" else data[:-1])
    await fetch(registry_server, manifest, tmp_path / "cache")
    assert path.read_bytes() == data


async def test_many_calls_for_one_version_at_once_are_safe(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, files = await a_version(registry_server)
    folders = await asyncio.gather(*(fetch(registry_server, manifest, tmp_path / "cache") for _ in range(10)))
    assert len(set(folders)) == 1
    assert {str(path.relative_to(folders[0])): path.read_bytes() for path in below(folders[0])} == files


async def test_fetching_and_pruning_at_once_give_whole_versions(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, files = await a_version(registry_server)
    stop = threading.Event()

    def prune_all_the_time() -> int:
        removed = 0
        while not stop.is_set():
            removed += prune(tmp_path / "cache", 0)
        return removed

    pruning = [asyncio.create_task(asyncio.to_thread(prune_all_the_time)) for _ in range(2)]
    for _ in range(10):
        with await materialize(BlobTransfers(registry_server.stub), manifest, tmp_path / "cache", manifest.files) as version:
            assert {str(path.relative_to(version.folder)): path.read_bytes() for path in below(version.folder)} == files
    stop.set()
    await asyncio.gather(*pruning)
    prune(tmp_path / "cache", 0)
    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_version_whose_file_is_damaged_in_the_store_is_data_loss(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, files = await a_version(registry_server)
    data = files["weights.safetensors"]
    stored = next(path for path in below(tmp_path / "blobs") if path.read_bytes() == data)
    stored.chmod(0o644)
    stored.write_bytes(bytes(len(data)))
    with pytest.raises(DataLossError):
        await fetch(registry_server, manifest, tmp_path / "cache")
    assert not (tmp_path / "cache" / manifest.digest() / "weights.safetensors").exists()
    prune(tmp_path / "cache", 0)
    assert list((tmp_path / "cache").iterdir()) == []  # what failed holds nothing


def test_what_was_used_longest_ago_is_removed_until_the_rest_fits(tmp_path: Path) -> None:
    folders = [a_folder(tmp_path, digit, 100, used) for digit, used in (("a", 3), ("b", 1), ("c", 2), ("d", 4))]
    assert prune(tmp_path, 400) == 0
    assert prune(tmp_path, 250) == 2
    assert sorted(tmp_path.iterdir()) == [folders[0], folders[3]]
    assert prune(tmp_path, 0) == 2
    assert list(tmp_path.iterdir()) == []
    assert prune(tmp_path / "not there", 0) == 0


def test_what_is_not_a_version_stays(tmp_path: Path) -> None:
    for name in ("notes", "A" * 64, "a" * 63):
        (tmp_path / name).mkdir()
    (tmp_path / ("b" * 64)).write_text("a file")
    assert prune(tmp_path, 0) == 0
    assert len(list(tmp_path.iterdir())) == 4


def test_what_killed_processes_left_is_removed_and_was_no_use(tmp_path: Path) -> None:
    old, new = a_folder(tmp_path, "a", 100, used=1), a_folder(tmp_path, "b", 100, used=2)
    (old / "sub" / ".tmp-abc").write_bytes(bytes(1000))
    (old / ".tmp-def").write_bytes(bytes(1000))
    os.utime(old, (1, 1))
    (tmp_path / ".tmp-half-removed" / "sub").mkdir(parents=True)
    assert prune(tmp_path, 200) == 0
    assert [path.name for path in below(tmp_path)] == ["model.onnx"] * 2
    assert prune(tmp_path, 100) == 1
    assert list(tmp_path.iterdir()) == [new]


def test_what_another_process_uses_stays_until_that_ends_even_if_it_is_killed(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, "a", 100, used=1)
    (folder / ".tmp-download").touch()
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        assert prune(tmp_path, 0) == 0
        assert len(below(folder)) == 2
        other.kill()
    assert prune(tmp_path, 0) == 1


async def test_a_version_in_use_stays_and_its_use_counts_as_late_as_it_ends(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, _ = await a_version(registry_server)
    cache = tmp_path / "cache"
    with await materialize(BlobTransfers(registry_server.stub), manifest, cache, manifest.files_in_role("graph")) as version:
        a_folder(cache, "a", 100, used=int(version.folder.stat().st_mtime) - 10)
        os.utime(version.folder, (1, 1))
        assert prune(cache, 0) == 1
        assert list(cache.iterdir()) == [version.folder]
        other = a_folder(cache, "b", 100, used=1000)
    assert prune(cache, version.folder.joinpath("model.onnx").stat().st_size) == 1
    assert not other.exists()


async def test_a_cache_that_is_a_file_is_unavailable(registry_server: RegistryServer, tmp_path: Path) -> None:
    manifest, _ = await a_version(registry_server)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UnavailableError, match="filesystem failed"):
        await materialize(BlobTransfers(registry_server.stub), manifest, tmp_path / "cache", manifest.files)
