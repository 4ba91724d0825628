"""Batching within limits that change, and what is refused for their sake."""

import asyncio

import pytest

from services.inference.batching import Batcher
from services.inference.limits import Limits
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from tessera.errors import InvalidArgumentError, ResourceExhaustedError, TesseraError
from tests.fixtures.batching import FOREVER, LIMITS, POISON, Model, batcher, busy, names, request, stopped_clock
from tests.fixtures.waiting import until


async def test_new_limits_hold_at_once_for_what_waits_and_for_what_comes() -> None:
    model = Model()
    async with batcher(model, max_batch=8, queue_size=10) as batches:
        first = await busy(model, batches)
        waiting = [asyncio.create_task(batches.submit(request(value), FOREVER)) for value in (1.0, 2.0, 3.0, 4.0)]
        await asyncio.sleep(0)
        batches.apply(Limits(max_batch=2, threads=1, queue_size=4, instances=2))
        await until(lambda: len(model.batches) == 2)  # the second instance has begun
        assert model.batches == [[100.0], [1.0, 2.0]]
        with pytest.raises(InvalidArgumentError, match="3 rows; at most 2"):
            await batches.submit(request(5.0, 6.0, 7.0), FOREVER)
        batches.apply(Limits(max_batch=8, threads=1, queue_size=2, instances=1))
        with pytest.raises(ResourceExhaustedError, match="2 requests wait already"):
            await batches.submit(request(8.0), FOREVER)
        model.gate.set()
        await asyncio.gather(first, *waiting)
    assert model.batches == [[100.0], [1.0, 2.0], [3.0, 4.0]]


async def test_instances_that_were_taken_away_stay_idle() -> None:
    model = Model()
    async with batcher(model, max_batch=1, instances=2) as batches:
        model.gate.clear()
        running = [asyncio.create_task(batches.submit(request(value), FOREVER)) for value in (1.0, 2.0)]
        await until(lambda: len(model.batches) == 2)
        batches.apply(Limits(max_batch=1, threads=1, queue_size=10, instances=1))
        model.gate.set()
        await asyncio.gather(*running)
        model.gate.clear()
        after = [asyncio.create_task(batches.submit(request(value), FOREVER)) for value in (3.0, 4.0)]
        await until(lambda: len(model.batches) == 3)
        await asyncio.sleep(0)
        assert sorted(model.computed) == [1.0, 2.0, 3.0]
        model.gate.set()
        await asyncio.gather(*after)


async def test_a_graph_of_batches_of_one_stays_so_whatever_the_limits_say() -> None:
    model = Model()
    batches = Batcher(model.run, EngineMetrics.of(model.name, "onnxruntime"), LIMITS, instances=1, most_rows=1)
    batches.apply(Limits(max_batch=32, threads=1, queue_size=10))
    with pytest.raises(InvalidArgumentError, match="2 rows; at most 1"):
        await batches.submit(request(1.0, 2.0), FOREVER)
    await batches.close()


async def test_where_more_than_rows_differs_nobody_is_refused_for_what_others_took(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    clock = stopped_clock(monkeypatch)
    batches = Batcher(model.run, EngineMetrics.of(model.name, "onnxruntime"), LIMITS, instances=1, regular=False)
    for _ in range(3):
        large = await busy(model, batches)
        clock.now += 10
        model.gate.set()
        await large  # three batches of one row took 10 s each
    small = await batches.submit(request(1.0, width=1), CallOptions(clock.now + 0.1))
    assert small.outputs["y"][0, 0] == 2.0
    await batches.close()


async def test_a_runtime_that_tries_to_end_the_thread_fails_the_request_alone() -> None:
    def run(inputs: Tensors) -> Tensors:
        if (inputs["x"] == POISON).any():
            raise SystemExit
        return {"y": inputs["x"]}

    batches = Batcher(run, EngineMetrics.of(next(names), "onnxruntime"), LIMITS, instances=1)
    with pytest.raises(TesseraError, match="failed on this request"):
        await batches.submit(request(POISON), FOREVER)
    assert (await batches.submit(request(7.0), FOREVER)).outputs["y"][0, 0] == 7.0
    await batches.close()


async def test_what_cannot_end_in_time_is_refused_at_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    clock = stopped_clock(monkeypatch)
    async with batcher(model) as batches:
        first = await busy(model, batches)
        clock.now += 10
        model.gate.set()
        await first  # a batch takes 10 s
        again = await busy(model, batches)
        with pytest.raises(ResourceExhaustedError, match=r"an answer takes about 22\.000 s now, and the call has 15") as refused:
            await batches.submit(request(1.0), CallOptions(clock.now + 15))
        assert refused.value.retry_after_s == pytest.approx(7)
        patient = asyncio.create_task(batches.submit(request(2.0), CallOptions(clock.now + 25)))
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(again, patient)
    assert model.computed == [100.0, 100.0, 2.0]
    assert model.counted("inference_shed_total", reason="deadline") == 1
