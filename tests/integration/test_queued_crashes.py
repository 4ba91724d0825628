"""Drills: whatever is killed, frozen or stopped while a queued request is computed, it ends with one result.

Real processes throughout: redis-server, registry and inference servers that share a queue. A gate holds a server within a request.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.client.queued import QueuedInferenceClient
from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tests.fixtures.inference import TinyModel
from tests.fixtures.queued import LEASE_S, MODEL, PART, QueuedCluster, QueuedProcess, images, until, until_ended, until_streams_are_empty
from tests.fixtures.waiting import WAIT_S

pytestmark = pytest.mark.slow

ROWS = 5 * PART


@asynccontextmanager
async def client_of(cluster: QueuedCluster, server: QueuedProcess) -> AsyncIterator[QueuedInferenceClient]:
    async with open_channel(server.address) as channel, open_channel(cluster.registry.address) as registry:
        yield QueuedInferenceClient(channel, RegistryClient(registry))


async def held_in(cluster: QueuedCluster, server: QueuedProcess) -> str:
    """Start a server, submit a request and return its id when the server is in the middle of it, its first part done."""
    await server.start_serving()
    server.gate.touch()
    async with client_of(cluster, server) as client:
        inference_id = (await client.submit({"image": images(ROWS)}, MODEL)).inference.id
        await until(client, inference_id, lambda inference: inference.rows_done == PART)
    await server.until_held()
    return inference_id


async def assert_one_result(cluster: QueuedCluster, client: QueuedInferenceClient, inference_id: str, servers: list[str]) -> pb.Inference:
    """Wait for the end and make sure that it came out as if nothing had happened."""
    ended = await until_ended(client, inference_id)
    assert (ended.state, ended.rows_done) == (pb.INFERENCE_STATE_SUCCEEDED, ROWS), ended
    assert [attempt.server for attempt in ended.attempts] == servers
    logits = (await client.result(inference_id))["logits"]
    np.testing.assert_allclose(logits, TinyModel(marker=1).logits(images(ROWS)), rtol=1e-4, atol=1e-5)
    await until_streams_are_empty(cluster.redis.url)
    return ended


async def test_another_server_computes_what_a_killed_one_left_and_a_watcher_sees_it_through(cluster: QueuedCluster) -> None:
    first, second = cluster.server("first"), cluster.server("second")
    inference_id = await held_in(cluster, first)
    await second.start_serving()
    async with client_of(cluster, second) as client:
        watching = asyncio.create_task(_last(client, inference_id))
        first.kill()
        ended = await assert_one_result(cluster, client, inference_id, ["first", "second"])
        assert f"first was not heard of for {LEASE_S:g} s" in ended.attempts[0].error
        async with asyncio.timeout(WAIT_S):
            assert (await watching).result == ended.result


async def test_a_frozen_server_that_wakes_up_writes_nothing(cluster: QueuedCluster) -> None:
    zombie, second = cluster.server("zombie"), cluster.server("second")
    inference_id = await held_in(cluster, zombie)
    await second.start_serving()
    zombie.send(signal.SIGSTOP)
    async with client_of(cluster, second) as client:
        ended = await assert_one_result(cluster, client, inference_id, ["zombie", "second"])
        blobs = {path.name for path in cluster.registry.blobs.rglob("*") if path.is_file()}
        zombie.gate.unlink()
        zombie.send(signal.SIGCONT)
        await zombie.until_logged("the attempt is not ours any more")
        assert await client.get(inference_id) == ended
    assert {path.name for path in cluster.registry.blobs.rglob("*") if path.is_file()} == blobs
    async with client_of(cluster, zombie) as client:  # it serves on
        again = (await client.submit({"image": images(PART)}, MODEL)).inference.id
        assert (await until_ended(client, again)).state == pb.INFERENCE_STATE_SUCCEEDED


async def test_a_stopped_server_gives_its_request_back_and_a_lost_registry_only_delays_it(cluster: QueuedCluster) -> None:
    first, second = cluster.server("first"), cluster.server("second")
    inference_id = await held_in(cluster, first)
    await second.start_serving()
    second.gate.touch()
    assert await asyncio.to_thread(first.end, signal.SIGTERM) == 0
    await second.until_held()
    cluster.registry.kill()  # the result cannot be stored
    second.gate.unlink()
    async with client_of(cluster, second) as client:
        waiting = await until(client, inference_id, lambda inference: len(inference.attempts) == 2 and bool(inference.error))
        assert waiting.attempts[0].error == "the server was stopped"
        await asyncio.to_thread(cluster.registry.start)
        await assert_one_result(cluster, client, inference_id, ["first", "second", "second"])


async def _last(client: QueuedInferenceClient, inference_id: str) -> pb.Inference:
    inference = pb.Inference()
    async for inference in client.watch(inference_id):  # noqa: B007
        pass
    return inference
