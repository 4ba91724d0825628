"""TorchServe as a container runs it, shared by inference servers: it may come late, be killed, and outlive those that use it."""

import asyncio
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from services.inference.runtimes.runtime import RuntimeOptions
from services.inference.runtimes.torchserve import create
from services.inference.settings import InferenceSettings
from services.inference.torchserve.owners import owner_of
from tessera.errors import UnavailableError
from tests.fixtures.inference import InferenceServer, TinyModel, piece, poll, publish_version, serve_inference, tensor
from tests.fixtures.registry import RegistryServer
from tests.fixtures.torchserve import program, program_manifest, publish_program
from tests.fixtures.torchserve_process import TorchServeContainer
from tests.fixtures.waiting import blocking_until

ROOT = Path(__file__).parents[2]
TINY = TinyModel(marker=3)
IMAGES = np.random.default_rng(1).uniform(0.1, 1, (2, 3, 64, 64)).astype(np.float32)
LOAD_S = 180.0

OTHER = """
import sys, time
from pathlib import Path
from model_store.manifest import Manifest
from services.inference.runtimes.runtime import RuntimeOptions
from services.inference.runtimes.torchserve import create
from services.inference.settings import InferenceSettings
from services.inference.torchserve.settings import TorchServeSettings
folder = Path(sys.argv[1])
told = TorchServeSettings.model_validate_json((folder / "settings.json").read_bytes())
runtime = create(InferenceSettings(torchserve=told))
runtime.load(Manifest.parse((folder / "manifest.json").read_bytes()), folder / "model.pt2", RuntimeOptions())
print("loaded", flush=True)
time.sleep(600)
"""


async def answers(server: InferenceServer, model: str) -> bool:
    """Tell whether a model can be used; it may be UNAVAILABLE, but nothing else."""
    try:
        answer = await server.client.classify_cell(tensor(piece()), model)
    except UnavailableError:
        return False
    return answer.candidates[0].index == TINY.marker


async def test_a_server_answers_without_torchserve_and_takes_it_in_whenever_it_comes(
    registry_server: RegistryServer, torchserve_container: TorchServeContainer, tmp_path: Path
) -> None:
    await asyncio.to_thread(torchserve_container.stop)
    told = torchserve_container.settings
    async with serve_inference(registry_server.address, tmp_path / "cache", wait=False, torchserve=told) as server:
        await publish_program(server.registry, "cells", TINY)
        await publish_version(server.registry, "puzzle", TINY, alias="champion")
        server.client.timeout_s = LOAD_S
        await server.wait_for("puzzle", 1)
        await server.wait_for("cells", 1, "FAILED")
        assert await answers(server, "puzzle")
        assert not await answers(server, "cells")
        torchserve_container.start()
        await poll(lambda: answers(server, "cells"), LOAD_S)
        await asyncio.to_thread(torchserve_container.start_and_await)

        java = torchserve_container.java()
        java.kill()
        await asyncio.to_thread(java.wait)
        assert await answers(server, "puzzle")
        await poll(lambda: answers(server, "cells"), LOAD_S)
        assert torchserve_container.java().pid != java.pid, "with keys of its own"
    assert not list((torchserve_container.directory / "store").glob("*.mar"))


def test_what_a_killed_server_left_is_removed_by_another_and_nothing_else(
    torchserve_container: TorchServeContainer, tmp_path: Path
) -> None:
    torchserve_container.start_and_await()
    (tmp_path / "model.pt2").write_bytes(program(TINY))
    (tmp_path / "manifest.json").write_bytes(program_manifest(TINY).canonical_json())
    (tmp_path / "settings.json").write_text(torchserve_container.settings.model_dump_json())
    store = torchserve_container.directory / "store"
    with (
        closing(torchserve_container.client()) as client,
        closing(create(InferenceSettings(torchserve=torchserve_container.settings))) as ours,
    ):
        with subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
            try:
                model = ours.load(program_manifest(TINY), tmp_path / "model.pt2", RuntimeOptions())
                assert other.stdout
                assert any(line == "loaded\n" for line in other.stdout)
                assert len(client.models()) == len(list(store.glob("*.mar"))) == 2
            finally:
                other.kill()
        blocking_until(lambda: len(client.models()) == 1, "what the killed server left stays")
        (name,) = client.models()
        blocking_until(lambda: [file.name for file in store.glob("*.owner")] == [f"{owner_of(name)}.owner"], "its files stay")
        assert [file.name for file in store.glob("*.mar")] == [f"{name}.mar"]
        assert np.allclose(model.run({"image": IMAGES})["logits"], TINY.logits(IMAGES), rtol=1e-4, atol=1e-4)
        model.close()
        assert client.models() == []


def test_a_second_one_does_not_disturb_the_first(torchserve_container: TorchServeContainer, tmp_path: Path) -> None:
    torchserve_container.start_and_await()
    second = TorchServeContainer(torchserve_container.directory, tmp_path / "second.log")
    second.start()
    try:
        blocking_until(lambda: "another TorchServe runs in" in second.log.read_text(), "nobody says so")
        assert not second.ready()
        blocking_until(torchserve_container.ready, "the first is not ready any more")
    finally:
        assert second.stop() == 0


def test_only_what_was_asked_for_listens_and_all_of_it_ends_on_sigterm(torchserve_container: TorchServeContainer) -> None:
    torchserve_container.start_and_await()
    ports = torchserve_container.ports
    java = torchserve_container.java()
    listening = {each.laddr.port for each in java.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    assert listening == {port for name, port in ports.items() if name != "metrics_port"}
    children = [java, *java.children(recursive=True)]
    assert torchserve_container.stop() == 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    log = torchserve_container.log.read_text()
    assert '"event": "serving"' in log
    assert " INFO " not in log
