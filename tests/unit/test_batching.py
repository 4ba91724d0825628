"""Batching: whatever waits is computed together, and nothing is computed for a caller who has gone."""

import asyncio
import time

import numpy as np
import pytest

from services.inference.batching import Batcher
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from tessera.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError, TesseraError
from tests.fixtures.batching import FOREVER, LIMITS, POISON, Model, batcher, busy, names, request, stopped_clock
from tests.fixtures.waiting import until


async def test_what_waits_is_computed_together_as_soon_as_the_model_is_free() -> None:
    model = Model()
    async with batcher(model) as batches:
        first = await busy(model, batches)
        others = [asyncio.create_task(batches.submit(request(value), FOREVER)) for value in (1.0, 2.0, 3.0)]
        await asyncio.sleep(0)
        model.gate.set()
        answers = await asyncio.gather(first, *others)
    assert model.batches == [[100.0], [1.0, 2.0, 3.0]]
    assert [answer.batch_size for answer in answers] == [1, 3, 3, 3]
    assert all(answer.queue_s >= 0 and answer.compute_s > 0 for answer in answers)


async def test_a_lone_request_waits_for_nobody() -> None:
    model = Model()
    async with batcher(model) as batches:
        answer = await batches.submit(request(1.0), FOREVER)
    assert (answer.batch_size, model.batches) == (1, [[1.0]])


async def test_a_batch_never_has_more_rows_than_allowed() -> None:
    model = Model()
    async with batcher(model, max_batch=4) as batches:
        first = await busy(model, batches)
        others = [asyncio.create_task(batches.submit(request(value, value), FOREVER)) for value in (1.0, 2.0, 3.0)]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *others)
        with pytest.raises(InvalidArgumentError, match="5 rows; at most 4"):
            await batches.submit(request(1, 2, 3, 4, 5), FOREVER)
    assert [len(batch) for batch in model.batches] == [1, 4, 2]


async def test_requests_of_one_shape_are_computed_together_and_those_of_another_are_not_stacked_on_them() -> None:
    model = Model()
    async with batcher(model) as batches:
        first = await busy(model, batches)
        wide = {"x": np.ones((1, 5))}
        others = [asyncio.create_task(batches.submit(inputs, FOREVER)) for inputs in (request(1.0), wide, request(2.0))]
        await asyncio.sleep(0)
        model.gate.set()
        answers = await asyncio.gather(first, *others)
    assert answers[2].outputs["y"].shape == (1, 5)
    assert model.batches == [[100.0], [1.0, 2.0], [1.0]]


async def test_a_request_that_comes_too_late_is_not_computed() -> None:
    model = Model()
    async with batcher(model) as batches:
        with pytest.raises(DeadlineExceededError):
            await batches.submit(request(1.0), CallOptions(time.monotonic() - 0.001))
    assert model.computed == []
    assert model.counted("inference_deadline_expired_total", phase="decode") == 1


async def test_a_request_that_expires_in_the_queue_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    clock = stopped_clock(monkeypatch)
    async with batcher(model) as batches:
        first = await busy(model, batches)
        late = asyncio.create_task(batches.submit(request(1.0), CallOptions(clock.now + 1)))
        on_time = asyncio.create_task(batches.submit(request(2.0), FOREVER))
        await asyncio.sleep(0)
        clock.now += 2
        model.gate.set()
        with pytest.raises(DeadlineExceededError):
            await late
        await asyncio.gather(first, on_time)
    assert model.computed == [100.0, 2.0]
    assert model.counted("inference_deadline_expired_total", phase="queue") == 1


async def test_a_caller_cancelled_by_its_deadline_is_counted_as_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    clock = stopped_clock(monkeypatch)
    async with batcher(model) as batches:
        first = await busy(model, batches)
        late = asyncio.create_task(batches.submit(request(1.0), CallOptions(clock.now + 1)))
        await asyncio.sleep(0)
        clock.now += 1
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        model.gate.set()
        await first
    assert model.computed == [100.0]
    assert model.counted("inference_deadline_expired_total", phase="queue") == 1


async def test_a_cancelled_caller_leaves_the_queue_and_makes_room() -> None:
    model = Model()
    async with batcher(model, queue_size=1) as batches:
        first = await busy(model, batches)
        gone = asyncio.create_task(batches.submit(request(1.0), FOREVER))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        stays = asyncio.create_task(batches.submit(request(2.0), FOREVER))
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, stays)
    assert model.computed == [100.0, 2.0]
    assert model.counted("inference_deadline_expired_total", phase="queue") == 0


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    model = Model()
    async with batcher(model, queue_size=2) as batches:
        first = await busy(model, batches)
        queued = [asyncio.create_task(batches.submit(request(value), FOREVER)) for value in (1.0, 2.0)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhaustedError, match="2 requests wait already") as refused:
            await batches.submit(request(3.0), FOREVER)
        assert refused.value.retry_after_s
        assert refused.value.retry_after_s > 0
        model.gate.set()
        await asyncio.gather(first, *queued)
    assert 3.0 not in model.computed
    assert model.counted("inference_shed_total", reason="queue_full") == 1


async def test_one_bad_request_does_not_fail_its_neighbours() -> None:
    model = Model()
    async with batcher(model) as batches:
        first = await busy(model, batches)
        tasks = [asyncio.create_task(batches.submit(request(value), FOREVER)) for value in (1.0, POISON, 2.0)]
        await asyncio.sleep(0)
        model.gate.set()
        good, bad, other = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        again = await batches.submit(request(5.0), FOREVER)
    assert isinstance(bad, TesseraError)
    assert (bad.code, "ValueError" in bad.message, "poison" in bad.message) == ("INTERNAL", False, False)
    assert not isinstance(good, BaseException)
    assert not isinstance(other, BaseException)
    assert (good.outputs["y"][0, 0], other.outputs["y"][0, 0], again.outputs["y"][0, 0]) == (2.0, 4.0, 10.0)
    assert model.counted("inference_failed_total", runtime="onnxruntime") == 1


async def test_a_request_that_expires_while_a_failed_batch_is_retried_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    clock = stopped_clock(monkeypatch)

    def run(inputs: Tensors) -> Tensors:
        if len(inputs["x"]) > 1:
            clock.now += 2  # longer than the second request has
        return model.run(inputs)

    batches = Batcher(run, EngineMetrics.of(model.name, "onnxruntime"), LIMITS, instances=1)
    first = await busy(model, batches)
    bad = asyncio.create_task(batches.submit(request(POISON), FOREVER))
    late = asyncio.create_task(batches.submit(request(1.0), CallOptions(clock.now + 1)))
    await asyncio.sleep(0)
    model.gate.set()
    outcomes = await asyncio.gather(bad, late, return_exceptions=True)
    await first
    await batches.close()
    assert isinstance(outcomes[1], DeadlineExceededError)
    assert model.batches == [[100.0], [POISON, 1.0], [POISON]]


async def test_a_model_that_loses_rows_fails_instead_of_mixing_up_answers() -> None:
    def run(inputs: Tensors) -> Tensors:
        return {"y": inputs["x"][:1] if len(inputs["x"]) > 1 else inputs["x"]}

    batches = Batcher(run, EngineMetrics.of(next(names), "onnxruntime"), LIMITS, instances=1)
    with pytest.raises(TesseraError):
        await batches.submit(request(1.0, 2.0), FOREVER)
    assert (await batches.submit(request(7.0), FOREVER)).outputs["y"][0, 0] == 7.0
    await batches.close()


async def test_instances_compute_at_the_same_time() -> None:
    model = Model()
    async with batcher(model, instances=2, max_batch=1) as batches:
        model.gate.clear()
        tasks = [asyncio.create_task(batches.submit(request(value), FOREVER)) for value in (1.0, 2.0, 3.0)]
        await until(lambda: len(model.batches) == 2)
        model.gate.set()
        await asyncio.gather(*tasks)
    assert sorted(model.computed) == [1.0, 2.0, 3.0]
