"""Commands for operators against a real registry."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.local import LocalStore
from tessera.blobs import BlobRef
from tessera.cli.main import app
from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tests.fixtures.inference import TinyModel, publish_version
from tests.fixtures.registry import RegistryProcess


@pytest.fixture
async def registry(registry_process: RegistryProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[RegistryClient]:
    monkeypatch.setenv("TESSERA_REGISTRY_ADDRESS", registry_process.address)
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    async with open_channel(registry_process.address) as channel:
        yield RegistryClient(channel)


async def tessera(*arguments: object) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


async def test_gc_removes_what_nothing_refers_to_and_is_older_than_the_grace(
    registry_process: RegistryProcess, registry: RegistryClient
) -> None:
    version = await publish_version(registry, "puzzle", TinyModel(marker=1))
    data = b"nobody refers to this"
    LocalStore(registry_process.blobs).write(BlobRef(hashlib.sha256(data).hexdigest(), len(data)), [data])

    def stored() -> list[Path]:
        return [path for path in registry_process.blobs.rglob("*") if path.is_file()]

    two_hours_ago = time.time() - 2 * 3600
    before = stored()
    for path in before:
        os.utime(path, (two_hours_ago, two_hours_ago))
    nothing = {"blobs_removed": 0, "bytes_freed": 0, "uploads_removed": 0}
    orphan = {"blobs_removed": 1, "bytes_freed": 21, "uploads_removed": 0}
    assert json.loads(await tessera("gc", "--json")) == nothing, "the grace is 24 hours"
    assert json.loads(await tessera("gc", "--grace", 1, "--dry-run", "--json")) == orphan
    assert stored() == before
    assert json.loads(await tessera("gc", "--grace", 1, "--json")) == orphan
    assert len(stored()) == len(before) - 1
    assert json.loads(await tessera("versions", "verify", version.model, version.version, "--json"))["intact"]


async def test_versions_are_found_by_the_tags_that_were_set(registry: RegistryClient) -> None:
    for marker in (1, 2):
        await publish_version(registry, "puzzle", TinyModel(marker=marker))
    await tessera("versions", "tag", "puzzle", 1, "site=lab", "by=hand")
    await tessera("versions", "tag", "puzzle", 2, "site=lab")
    assert json.loads(await tessera("versions", "tag", "puzzle", 2, "--remove", "site", "--json"))["tags"] == {}
    found = json.loads(await tessera("versions", "list", "puzzle", "--filter", 'tags.site = "lab"', "--json"))
    assert [(version["version"], version["tags"]) for version in found] == [(1, {"site": "lab", "by": "hand"})]


async def test_limits_are_changed_one_by_one_and_0_goes_back_to_the_default(registry: RegistryClient) -> None:
    await registry.create_model("puzzle")
    await tessera("models", "limits", "puzzle", "--max-batch", 8, "--max-concurrency", 50)
    changed = json.loads(await tessera("models", "limits", "puzzle", "--max-batch", 0, "--instances", 2, "--json"))
    assert changed == json.loads(await tessera("models", "limits", "puzzle", "--json"))
    assert {name: value for name, value in changed.items() if int(value)} == {"instances": 2, "max_concurrency": 50}
    assert "max concurrency" in await tessera("models", "limits", "puzzle")
    serving = (await registry.get_model("puzzle")).serving
    assert (serving.max_batch, serving.instances, serving.max_concurrency) == (0, 2, 50)
