"""The inference service as a process: it outlives its registry, stops without losing a request, and shows what it does."""

import asyncio
import os
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from model_store.manifest import Manifest
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest
from tessera.api.inference.v1.serving_pb2 import SERVED_STATE_FAILED
from tessera.client.inference import InferenceClient
from tessera.client.registry import RegistryClient
from tessera.errors import NotFoundError, UnavailableError
from tessera.rpc.channel import open_channel
from tessera.rpc.status import rpc_errors
from tests.fixtures.inference import InferenceProcess, TinyModel, check_answer, piece, poll, publish_version, tensor
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.waiting import WAIT_S

MODEL = "puzzle"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def registry(registry_process: RegistryProcess) -> AsyncIterator[RegistryClient]:
    async with open_channel(registry_process.address) as channel:
        yield RegistryClient(channel)


@pytest.fixture
async def client(inference_process: InferenceProcess) -> AsyncIterator[InferenceClient]:
    async with open_channel(inference_process.address) as channel:
        yield InferenceClient(channel, WAIT_S)


async def wait_for(client: InferenceClient, version: int) -> None:
    async def reached() -> bool:
        return any(one.version == version and "champion" in one.aliases for one in (await client.list_served()).versions)

    await poll(reached)


async def reader_of(fifo: Path) -> int:
    """Wait until somebody has opened a FIFO to read it; return the descriptor that keeps the reader waiting, to be closed."""
    writers: list[int] = []

    async def has_reader() -> bool:
        with suppress(OSError):  # ENXIO: nobody reads yet
            writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    await poll(has_reader)
    return writers[0]


async def reachable(registry: RegistryClient) -> bool:
    """Tell whether the registry answers; its channel waits a little before it connects again."""
    try:
        return bool(await registry.get_model(MODEL))
    except UnavailableError:
        return False


async def test_serving_goes_on_without_the_registry_and_catches_up_with_it(
    registry_process: RegistryProcess, inference_process: InferenceProcess, registry: RegistryClient, client: InferenceClient
) -> None:
    models = {number: TinyModel(marker=number) for number in (1, 2, 3)}
    await publish_version(registry, MODEL, models[1], alias="champion")
    await publish_version(registry, MODEL, models[2])
    await wait_for(client, 1)
    stop = asyncio.Event()

    async def load() -> int:
        answered = 0
        while not stop.is_set():
            image = piece(answered)
            answer = await client.classify_cell(tensor(image), MODEL, include_probabilities=True)
            check_answer(answer, models[answer.answered_by.version], image)
            answered += 1
        return answered

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(load()) for _ in range(3)]
        registry_process.kill()
        with pytest.raises(UnavailableError):
            await client.classify_cell(tensor(piece()), MODEL, version=2)
        await asyncio.to_thread(registry_process.start)
        await poll(lambda: reachable(registry))
        await registry.set_alias(MODEL, "champion", 2)
        await wait_for(client, 2)
        await publish_version(registry, MODEL, models[3], alias="champion")
        await wait_for(client, 3)
        stop.set()
    assert all(task.result() > 0 for task in asking)
    await asyncio.to_thread(inference_process.wait_for_health, SERVING)


async def test_it_waits_for_a_registry_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    registry_process = RegistryProcess(tmp_path / "registry")
    process = InferenceProcess(tmp_path, registry_process.address)
    try:
        await asyncio.to_thread(process.start, serving=False)
        await asyncio.to_thread(process.wait_for_health, NOT_SERVING)
        async with open_channel(process.address) as channel:
            asked = ClassifyCellRequest(model=ModelSelector(model=MODEL), tensor=tensor(piece()))
            with pytest.raises(UnavailableError, match="has not read the registry yet"), rpc_errors():
                await InferenceClient(channel).puzzle_stub.ClassifyCell(asked, timeout=WAIT_S)  # once: our client would try again
        await asyncio.to_thread(registry_process.start)
        await asyncio.to_thread(process.wait_for_health, SERVING)
        async with open_channel(process.address) as channel:
            with pytest.raises(NotFoundError, match="models: none"):
                await InferenceClient(channel).classify_cell(tensor(piece()), MODEL)
        assert await asyncio.to_thread(process.stop) == 0
    finally:
        for running in (process, registry_process):
            if running.process is not None:
                running.kill()


async def test_a_version_that_could_not_be_fetched_is_tried_again_when_the_registry_is_back(
    registry_process: RegistryProcess, registry: RegistryClient, client: InferenceClient
) -> None:
    await publish_version(registry, MODEL, TinyModel(marker=1), alias="champion")
    await wait_for(client, 1)
    version = await publish_version(registry, MODEL, TinyModel(marker=2))
    graph = Manifest.parse((await registry.get_version(MODEL, version=2)).manifest_json).files_in_role("graph")[0]
    (blob,) = registry_process.blobs.rglob(graph.sha256)
    kept = blob.rename(blob.with_name("kept"))
    os.mkfifo(blob)  # whoever reads it waits
    await registry.set_alias(MODEL, "champion", version.version)
    writer = await reader_of(blob)
    registry_process.kill()  # in the middle of the fetch
    os.close(writer)
    assert (await client.classify_cell(tensor(piece()), MODEL)).answered_by.version == 1
    kept.replace(blob)
    await asyncio.to_thread(registry_process.start)
    await wait_for(client, 2)
    assert all(one.state != SERVED_STATE_FAILED for one in (await client.list_served()).versions)


async def test_sigterm_finishes_what_is_in_flight_and_lets_go_of_the_leases(
    inference_process: InferenceProcess, registry: RegistryClient, client: InferenceClient
) -> None:
    await publish_version(registry, MODEL, TinyModel(marker=1), alias="champion")
    await wait_for(client, 1)
    asked = [asyncio.create_task(client.classify_cell(tensor(piece(seed)), MODEL)) for seed in range(50)]
    await poll(lambda: any(task.done() for task in asked))
    assert await asyncio.to_thread(inference_process.stop) == 0
    assert {answer.answered_by.version for answer in await asyncio.gather(*asked)} == {1}
    await registry.delete_alias(MODEL, "champion")
    await registry.delete_version(MODEL, 1)


async def test_metrics_show_every_phase(inference_process: InferenceProcess, registry: RegistryClient, client: InferenceClient) -> None:
    version = await publish_version(registry, MODEL, TinyModel(marker=1), alias="champion")
    await wait_for(client, 1)
    await asyncio.gather(*(client.classify_cell(tensor(piece(seed)), MODEL) for seed in range(10)))
    page = await asyncio.to_thread(_get, f"http://127.0.0.1:{inference_process.metrics_port}/metrics")
    for phase in ("decode", "encode"):
        assert f'inference_{phase}_seconds_count{{model="{MODEL}"}} 10.0' in page
    assert f'inference_model_info{{digest="{version.digest}",model="{MODEL}",version="1"}} 1.0' in page
    assert f'inference_batch_size_sum{{model="{MODEL}",runtime="onnxruntime"}} 10.0' in page
    assert f'inference_queue_seconds_count{{model="{MODEL}",runtime="onnxruntime"}} 10.0' in page
    assert "inference_compute_seconds_count" in page
    assert 'grpc_server_handled_total{grpc_code="OK",grpc_method="ClassifyCell"' in page


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=WAIT_S) as response:
        return response.read().decode()
