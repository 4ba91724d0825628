"""A slow model over gRPC: nothing is computed for a caller who has gone, and nobody is cut off."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from model_store.manifest import Manifest
from services.inference.runtimes import Runtimes
from services.inference.runtimes.runtime import RuntimeOptions, Tensors
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellResponse
from tessera.api.registry.v1.registry_pb2 import ServingLimits
from tessera.errors import DeadlineExceededError, ResourceExhaustedError, TesseraError
from tests.fixtures.inference import InferenceServer, TinyModel, piece, poll, publish_version, serve_inference, tensor
from tests.fixtures.registry import RegistryServer
from tests.fixtures.waiting import WAIT_S

BAD_PIECE = np.zeros((64, 64, 3), dtype=np.float32)


class SlowModel:
    """A runtime and its model, which a test can hold back; it notes the mean of every piece that it computes, and fails on a black one."""

    instances = 1
    in_process = True

    def __init__(self) -> None:
        self.tiny = TinyModel(marker=2)
        self.gate = threading.Event()
        self.gate.set()
        self.computed: list[float] = []
        self.options = RuntimeOptions()
        self.closed = False

    def memory_for(self, graph_bytes: int) -> int:
        return graph_bytes

    def load(self, manifest: Manifest, graph: Path, options: RuntimeOptions) -> "SlowModel":
        self.options = options
        return self

    def run(self, inputs: Tensors) -> Tensors:
        images = inputs["image"].astype(np.float32)
        self.computed += [round(float(image.mean()), 5) for image in images]
        assert self.gate.wait(WAIT_S)
        if any(not image.any() for image in images):
            raise RuntimeError("secret detail")
        return {"logits": self.tiny.logits(images)}

    def close(self) -> None:
        self.closed = True

    def saw(self, seed: int) -> bool:
        return round(float(piece(seed).mean()), 5) in self.computed


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowModel:
    """A slow model in place of onnxruntime."""
    model = SlowModel()
    monkeypatch.setattr(Runtimes, "find", lambda runtimes, name: model)
    return model


@pytest.fixture
async def server(slow: SlowModel, registry_server: RegistryServer, tmp_path: Path) -> AsyncIterator[InferenceServer]:
    """A server with the slow model, and room for three requests in its queue."""
    async with serve_inference(registry_server.address, tmp_path / "cache", queue_size=3) as made:
        await publish_version(made.registry, "slow", slow.tiny, alias="champion")
        await made.wait_for_alias("slow", 1)
        slow.computed.clear()
        yield made
        slow.gate.set()


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": "slow", **labels}) or 0.0


def ask(server: InferenceServer, seed: int) -> "asyncio.Task[ClassifyCellResponse]":
    return asyncio.create_task(server.client.classify_cell(tensor(piece(seed)), "slow"))


async def hold(server: InferenceServer, slow: SlowModel) -> "asyncio.Task[ClassifyCellResponse]":
    """Keep the model busy with a first request."""
    slow.gate.clear()
    first = ask(server, 100)
    await poll(lambda: slow.saw(100))
    return first


async def in_flight(server: InferenceServer) -> int:
    return sum(one.in_flight for one in (await server.client.list_served()).versions)


async def wait_in_flight(server: InferenceServer, expected: int) -> None:
    async def reached() -> bool:
        return await in_flight(server) == expected

    await poll(reached)


async def test_a_request_whose_deadline_passes_in_the_queue_is_never_computed(server: InferenceServer, slow: SlowModel) -> None:
    before = counted("inference_deadline_expired_total", phase="queue")
    first = await hold(server, slow)
    server.client.timeout_s = 0.2

    async def two_expired() -> bool:
        with pytest.raises(DeadlineExceededError):  # on a busy machine it may not even reach the queue
            await ask(server, 1)
        return counted("inference_deadline_expired_total", phase="queue") >= before + 2

    await poll(two_expired)
    server.client.timeout_s = WAIT_S
    await wait_in_flight(server, 1)
    slow.gate.set()
    await first
    assert not slow.saw(1)


async def test_a_caller_that_hangs_up_is_never_computed(server: InferenceServer, slow: SlowModel) -> None:
    first = await hold(server, slow)
    gone = ask(server, 1)
    await wait_in_flight(server, 2)
    gone.cancel()
    await wait_in_flight(server, 1)
    slow.gate.set()
    await first
    assert not slow.saw(1)


async def test_a_full_queue_sheds_load_and_says_when_to_come_back(server: InferenceServer, slow: SlowModel) -> None:
    before = counted("inference_shed_total", reason="queue_full")
    first = await hold(server, slow)
    queued = [ask(server, seed) for seed in (1, 2, 3)]
    await wait_in_flight(server, 4)
    with pytest.raises(ResourceExhaustedError, match="3 requests wait already") as refused:
        await ask(server, 4)
    assert refused.value.retry_after_s
    slow.gate.set()
    await asyncio.gather(first, *queued)
    assert not slow.saw(4)
    assert counted("inference_shed_total", reason="queue_full") == before + 1


async def test_an_error_of_the_runtime_is_internal_says_nothing_private_and_fails_nobody_else(
    server: InferenceServer, slow: SlowModel
) -> None:
    first = await hold(server, slow)
    bad = asyncio.create_task(server.client.classify_cell(tensor(BAD_PIECE), "slow"))
    good = ask(server, 1)
    await wait_in_flight(server, 3)
    slow.gate.set()
    with pytest.raises(TesseraError) as failed:
        await bad
    assert failed.value.code == "INTERNAL"
    assert "secret" not in failed.value.message
    assert "RuntimeError" not in failed.value.message
    await asyncio.gather(first, good)
    assert await ask(server, 3)


async def test_a_swap_waits_for_the_requests_of_the_old_version(
    server: InferenceServer, slow: SlowModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await hold(server, slow)
    queued = ask(server, 1)
    await wait_in_flight(server, 2)
    new = SlowModel()
    monkeypatch.setattr(Runtimes, "find", lambda runtimes, name: new)
    await publish_version(server.registry, "slow", slow.tiny, alias="champion", parameters=1)
    await server.wait_for_alias("slow", 2)
    assert (await server.client.classify_cell(tensor(piece(5)), "slow")).answered_by.version == 2
    assert await server.served() == {("slow", 1): "DRAINING", ("slow", 2): "READY"}
    assert not slow.closed
    slow.gate.set()
    assert [answer.answered_by.version for answer in await asyncio.gather(first, queued)] == [1, 1]
    await poll(lambda: slow.closed)
    assert not new.closed


async def test_requests_wait_for_a_version_that_is_being_loaded_within_their_deadline(server: InferenceServer, slow: SlowModel) -> None:
    await publish_version(server.registry, "slow", slow.tiny, parameters=1)
    slow.gate.clear()
    server.client.timeout_s = 0.3
    with pytest.raises(DeadlineExceededError):
        await server.client.classify_cell(tensor(piece()), "slow", version=2)
    server.client.timeout_s = WAIT_S
    waiting = [asyncio.create_task(server.client.classify_cell(tensor(piece()), "slow", version=2)) for _ in range(3)]
    await server.wait_for("slow", 2, "LOADING")
    slow.gate.set()
    assert {answer.answered_by.version for answer in await asyncio.gather(*waiting)} == {2}


async def limit(server: InferenceServer, **limits: int) -> None:
    """Set the limits of the slow model in the registry, and wait until the server has them."""
    model = await server.registry.update_model("slow", serving=ServingLimits(**limits))
    await poll(lambda: server.pool.revision >= model.revision)


async def test_calls_above_the_concurrency_of_a_model_are_refused_until_the_registry_allows_more(
    server: InferenceServer, slow: SlowModel
) -> None:
    before = counted("inference_shed_total", reason="concurrency")
    await limit(server, max_concurrency=1)
    first = await hold(server, slow)
    with pytest.raises(ResourceExhaustedError, match="1 calls are in flight") as refused:
        await ask(server, 1)
    assert refused.value.retry_after_s
    assert counted("inference_shed_total", reason="concurrency") == before + 1
    await limit(server)
    second = ask(server, 2)
    await wait_in_flight(server, 2)
    slow.gate.set()
    await asyncio.gather(first, second)
    assert not slow.saw(1)
    await limit(server, max_concurrency=1)
    await ask(server, 3)  # those that have ended make room


async def test_limits_of_the_registry_hold_for_loaded_versions_at_once_and_those_of_other_models_do_not(
    server: InferenceServer, slow: SlowModel
) -> None:
    await server.registry.create_model("other")
    await server.registry.update_model("other", serving=ServingLimits(queue_size=1))
    await limit(server, queue_size=4, instances=2, max_batch=1)
    first = await hold(server, slow)
    second = ask(server, 1)
    await poll(lambda: slow.saw(1))  # beside the first one
    queued = [ask(server, seed) for seed in (2, 3, 4, 5)]
    await wait_in_flight(server, 6)
    with pytest.raises(ResourceExhaustedError, match="4 requests wait already"):
        await ask(server, 6)
    slow.gate.set()
    answers = await asyncio.gather(first, second, *queued)
    assert [answer.answered_by.batch_size for answer in answers] == [1] * 6


async def test_limits_are_known_to_versions_that_are_loaded_later(server: InferenceServer, slow: SlowModel) -> None:
    await limit(server, threads=3, instances=2, queue_size=1)
    await publish_version(server.registry, "slow", TinyModel(marker=2), alias="champion", architecture="another")
    await server.wait_for_alias("slow", 2)
    assert slow.options == RuntimeOptions(threads=3, instances=2)


async def test_a_call_of_high_priority_goes_before_those_that_wait(server: InferenceServer, slow: SlowModel) -> None:
    await limit(server, max_batch=1)
    first = await hold(server, slow)
    normal = ask(server, 1)
    await wait_in_flight(server, 2)
    high = asyncio.create_task(server.client.classify_cell(tensor(piece(2)), "slow", priority="high"))
    await wait_in_flight(server, 3)
    slow.gate.set()
    await asyncio.gather(first, normal, high)
    assert slow.computed == [round(float(piece(seed).mean()), 5) for seed in (100, 2, 1)]
