"""Queued requests that cannot be computed, for a while or at all, end clearly; so do those of which Redis forgets or repeats something."""

import asyncio
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis
from safetensors.numpy import save

from tessera.api.common.v1.common_pb2 import ModelSelector, Tensor
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.blob_files import BlobRef
from tessera.client.calls import call
from tessera.client.inference import InferenceClient
from tessera.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError, TesseraError, UnavailableError
from tests.fixtures.inference import TinyModel, poll, publish_version
from tests.fixtures.queued import MODEL, PART, QueuedServer, images, until, until_ended, until_state, until_streams_are_empty
from tests.fixtures.redis import RedisServer
from tests.fixtures.waiting import WAIT_S

IMAGE = images(1)


async def dead_letters(redis_url: str, count: int) -> list[dict[str, str]]:
    """Return the dead letters of the priority low once there are so many."""
    async with Redis.from_url(redis_url, decode_responses=True) as redis, asyncio.timeout(WAIT_S):
        while len(entries := await redis.xrange("tessera:inference:low:dead")) < count:
            await asyncio.sleep(0.02)
    return [fields for _, fields in entries]


REFUSED: list[tuple[Any, dict[str, Any], type[TesseraError], str]] = [
    ({"picture": IMAGE}, {}, InvalidArgumentError, "the inputs are picture; puzzle takes image"),
    ({"image": IMAGE, "mask": IMAGE}, {}, InvalidArgumentError, "the inputs are image, mask"),
    ({}, {}, InvalidArgumentError, "there is no tensor"),
    ({"image": IMAGE[:, :2]}, {}, InvalidArgumentError, r"image has shape \[1, 2, 64, 64\]"),
    ({"image": IMAGE.astype(np.float64)}, {}, InvalidArgumentError, "image has element type float64; FP32 is needed"),
    ({"image": np.float32(np.nan) * IMAGE}, {}, InvalidArgumentError, "NaN or infinity"),
    ({"image": IMAGE, "mask": images(2)}, {}, InvalidArgumentError, "image: 1, mask: 2"),
    ({"image": np.array(["a"], dtype=object)}, {}, InvalidArgumentError, "cannot hold"),
    ({"image": IMAGE}, {"version": 7}, NotFoundError, "version 7"),
    ({"image": IMAGE}, {"version": -1}, InvalidArgumentError, "numbered from 1"),
    ({"image": IMAGE}, {"alias": "nobody"}, NotFoundError, "nobody"),
    ({"image": IMAGE}, {"expire_after_s": 0.5}, InvalidArgumentError, "expire_after: 0.5 s is outside 1 s to 7 days"),
    ({"image": IMAGE}, {"result_ttl_s": 31 * 86400}, InvalidArgumentError, "outside 1 s to 30 days"),
    ({"image": IMAGE}, {"max_attempts": 11}, InvalidArgumentError, "max_attempts is 11"),
    ({"image": IMAGE}, {"idempotency_key": 257 * "k"}, InvalidArgumentError, "idempotency_key"),
    ({"image": IMAGE}, {"runtime": "../etc"}, InvalidArgumentError, "not a valid name"),
    (BlobRef("0" * 64, 5), {}, NotFoundError, "upload it first"),
]


async def test_what_can_be_seen_at_once_is_refused_at_once(queued_server: QueuedServer) -> None:
    for inputs, options, error, message in REFUSED:
        with pytest.raises(error, match=message):
            await queued_server.client.submit(inputs, MODEL, **options)
    assert [inference async for inference in queued_server.client.list()] == []


async def test_an_unknown_model_and_a_request_that_says_nothing_are_refused(queued_server: QueuedServer) -> None:
    with pytest.raises(NotFoundError, match="unheard-of"):
        await queued_server.client.submit({"image": IMAGE}, "unheard-of")
    shapeless = pb.NamedTensors(tensors={"image": Tensor(data_type="DATA_TYPE_FP32", shape=[2**40, 2**40], data=b"x")})
    for request, message in (
        (pb.SubmitInferenceRequest(model=ModelSelector(model=MODEL)), "no inputs"),
        (pb.SubmitInferenceRequest(model=ModelSelector(model=MODEL), tensors=shapeless), "bytes"),
        (pb.SubmitInferenceRequest(model=ModelSelector(model="../etc"), blob=pb.TensorsBlob(sha256="0" * 64)), "valid name"),
        (pb.SubmitInferenceRequest(model=ModelSelector(model=MODEL), blob=pb.TensorsBlob(sha256="x")), "not a sha256"),
        (pb.SubmitInferenceRequest(model=ModelSelector(model=MODEL), blob=pb.TensorsBlob(sha256="0" * 64), priority=9), "priority"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            await call(queued_server.client.stub.SubmitInference, request, timeout_s=WAIT_S)
    for asked in (queued_server.client.get, queued_server.client.cancel, queued_server.client.result):
        with pytest.raises(NotFoundError, match="no queued inference 'x'"):
            await asked("x")


async def test_blobs_that_are_no_inputs_fail_without_another_attempt_and_become_dead_letters(
    queued_server: QueuedServer, redis_server: RedisServer
) -> None:
    bad = {
        b"no safetensors at all": "not a safetensors file",
        save({"image": images(2)})[:-5]: "not a safetensors file",
        save({"picture": images(2)}): "the inputs are picture; puzzle takes image",
        save({"image": images(2)[:, :, :9]}): "has shape",
        save({"image": np.concatenate([images(PART), images(1) * np.float32(np.inf)])}): "NaN or infinity",
        save({"image": images(1), "mask": images(2)}): "the same number of rows",
    }
    ids = {}
    for data, message in bad.items():
        blob = await queued_server.registry.upload_bytes(data)
        ids[(await queued_server.client.submit(blob, MODEL)).inference.id] = message
    for inference_id, message in ids.items():
        ended = await until_ended(queued_server.client, inference_id)
        assert (ended.state, len(ended.attempts)) == (pb.INFERENCE_STATE_FAILED, 1)
        assert message in ended.error
    letters = await dead_letters(redis_server.url, len(bad))
    assert {letter["inference_id"] for letter in letters} == ids.keys()
    await until_streams_are_empty(redis_server.url)


async def test_what_breaks_the_model_is_tried_max_attempts_times_and_becomes_a_dead_letter(
    queued_server: QueuedServer, redis_server: RedisServer
) -> None:
    queued_server.router.problems = [TesseraError("the model failed") for _ in range(3)]
    ended = await until_ended(queued_server.client, await queued_server.submit())
    assert (ended.state, ended.error) == (pb.INFERENCE_STATE_FAILED, "the model failed (attempt 3 of 3)")
    assert [(attempt.number, attempt.error) for attempt in ended.attempts] == [(number, "the model failed") for number in (1, 2, 3)]
    [letter] = await dead_letters(redis_server.url, 1)
    assert (letter["inference_id"], letter["attempt"], letter["reason"]) == (ended.id, "3", ended.error)
    healthy = await until_ended(queued_server.client, await queued_server.submit())
    assert healthy.state == pb.INFERENCE_STATE_SUCCEEDED


async def test_a_bug_in_one_attempt_takes_no_worker_down(queued_server: QueuedServer) -> None:
    queued_server.router.problems = [ZeroDivisionError("boom") for _ in range(2)]
    ended = await until_ended(queued_server.client, await queued_server.submit(max_attempts=2))
    assert (ended.state, ended.error) == (pb.INFERENCE_STATE_FAILED, "ZeroDivisionError; the server's log says more (attempt 2 of 2)")
    assert (await until_ended(queued_server.client, await queued_server.submit())).state == pb.INFERENCE_STATE_SUCCEEDED


async def test_waiting_for_a_model_that_is_away_or_busy_is_no_failure(queued_server: QueuedServer) -> None:
    queued_server.router.problems = [*(UnavailableError("loading") for _ in range(3)), *(ResourceExhaustedError("full") for _ in range(2))]
    ended = await until_ended(queued_server.client, await queued_server.submit(max_attempts=1))
    assert ended.state == pb.INFERENCE_STATE_SUCCEEDED
    assert [attempt.error for attempt in ended.attempts] == ["loading", ""], "waits in a row are one attempt in the list"
    assert ended.attempts[-1].number == 4, "who is busy is asked again within the attempt"


async def test_one_version_computes_all_parts_though_the_alias_moves_meanwhile(queued_server: QueuedServer) -> None:
    queued_server.router.close(free=1)
    running = await queued_server.submit(3 * PART)
    await queued_server.router.held.wait()
    await publish_version(queued_server.registry, MODEL, TinyModel(marker=2), alias="champion")

    async def moved() -> bool:
        served = (await InferenceClient(queued_server.channel).list_served(MODEL)).versions
        return any(one.version == 2 and "champion" in one.aliases for one in served)

    await poll(moved)
    queued_server.router.gate.set()
    assert (await until_ended(queued_server.client, running)).version == 1
    logits = (await queued_server.client.result(running))["logits"]
    np.testing.assert_allclose(logits, TinyModel(marker=1).logits(images(3 * PART)), rtol=1e-4, atol=1e-5)


async def test_requests_are_taken_in_without_redis_and_dispatched_when_it_is_back(
    queued_server: QueuedServer, redis_server: RedisServer
) -> None:
    await asyncio.to_thread(redis_server.kill)
    waiting = await queued_server.submit()
    assert (await queued_server.client.get(waiting)).state == pb.INFERENCE_STATE_QUEUED
    await asyncio.to_thread(redis_server.start)
    assert (await until_ended(queued_server.client, waiting)).state == pb.INFERENCE_STATE_SUCCEEDED


@pytest.mark.parametrize("accident", ["restart", "flush"])
async def test_no_request_is_lost_with_redis(queued_server: QueuedServer, redis_server: RedisServer, accident: str) -> None:
    queued_server.router.close(free=1)
    running = await queued_server.submit(2 * PART)
    await until(queued_server.client, running, lambda inference: inference.rows_done == PART)
    others = [await queued_server.submit() for _ in range(3)]
    await until_state(queued_server.client, others[0], pb.INFERENCE_STATE_RUNNING)
    if accident == "restart":
        await asyncio.to_thread(redis_server.restart)
    else:
        async with Redis.from_url(redis_server.url) as redis:
            await redis.flushall()
    queued_server.router.gate.set()
    for inference_id in (running, *others):
        ended = await until_ended(queued_server.client, inference_id)
        assert (ended.state, len(ended.attempts)) == (pb.INFERENCE_STATE_SUCCEEDED, 1)
    await until_streams_are_empty(redis_server.url)


async def test_entries_that_come_twice_or_name_nothing_are_dropped(queued_server: QueuedServer, redis_server: RedisServer) -> None:
    queued_server.router.close()
    running = await queued_server.submit()
    await queued_server.router.held.wait()
    async with Redis.from_url(redis_server.url) as redis:
        for fields in ({"inference_id": running}, {"inference_id": running}, {"inference_id": "nothing"}, {"other": "x"}):
            await redis.xadd("tessera:inference:low", fields)
    queued_server.router.gate.set()
    ended = await until_ended(queued_server.client, running)
    assert (ended.state, len(ended.attempts)) == (pb.INFERENCE_STATE_SUCCEEDED, 1)
    await until_streams_are_empty(redis_server.url)
