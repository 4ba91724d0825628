"""Batching: answers are never mixed up, and nothing is computed for a caller who has gone."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.inference.batching import Batcher
from services.inference.limits import Limits
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from tessera.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError, TesseraError

POISON = -1.0
LIMITS = Limits(max_batch=8, threads=1, queue_size=10)
FOREVER = CallOptions()
PAST = CallOptions(deadline=0.0)
names = (f"batching-{number}" for number in count())


class Model:
    """Answers twice its input, counts what it computes, fails on poison, and can be held back."""

    def __init__(self) -> None:
        self.name = next(names)
        self.batches: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Semaphore(0)

    def run(self, inputs: Tensors) -> Tensors:
        rows = inputs["x"]
        self.batches.append([float(row.flat[0]) for row in rows])
        self.running.release()
        assert self.gate.wait(30)
        if (rows == POISON).any():
            raise ValueError("poison")
        return {"y": rows * 2, "first": rows.reshape(len(rows), -1)[:, :1].copy()}

    @property
    def computed(self) -> list[float]:
        return [value for batch in self.batches for value in batch]

    def counted(self, metric: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(metric, {"model": self.name, **labels}) or 0.0


class Clock:
    """Stands in for the module `time`; it stands still until a test moves it."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@asynccontextmanager
async def batcher(model: Model, **options: int) -> AsyncIterator[Batcher]:
    limits = Limits(**{"max_batch": 8, "threads": 1, "queue_size": 100, "instances": 1, **options})
    made = Batcher(model.run, EngineMetrics.of(model.name, "onnxruntime"), limits, instances=1)
    yield made
    model.gate.set()
    await made.close()


def request(*values: float) -> Tensors:
    return {"x": np.array([[value, value] for value in values], dtype=np.float64)}


async def busy(model: Model, batches: Batcher) -> asyncio.Task[Any]:
    """Hold the model back in a first batch, so that what follows has to queue."""
    model.gate.clear()
    task = asyncio.create_task(batches.submit(request(100.0), FOREVER))
    assert await asyncio.to_thread(model.running.acquire, True, 10)
    return task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


CALLS = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from(["wait", "wait", "wait", "cancel", "poison", "expired"]), st.integers(0, 3)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(calls=CALLS, max_rows=st.integers(8, 20), instances=st.integers(1, 3))
def test_every_caller_gets_the_answer_to_its_own_request(calls: list[tuple[int, str, int]], max_rows: int, instances: int) -> None:
    async def scenario() -> None:
        model = Model()
        ids = count(1)

        async def one(rows: int, fate: str, pause: int, batches: Batcher) -> None:
            for _ in range(pause):
                await asyncio.sleep(0)
            values = [float(next(ids)) for _ in range(rows)]
            if fate == "poison":
                values[-1] = POISON
            call = asyncio.create_task(batches.submit(request(*values), PAST if fate == "expired" else FOREVER))
            if fate == "cancel":
                await asyncio.sleep(0)
                call.cancel()
            try:
                answer = await call
            except asyncio.CancelledError:
                assert fate == "cancel"
            except DeadlineExceededError:
                assert fate == "expired"
                assert not set(values) & set(model.computed)
            except TesseraError as error:
                assert fate == "poison"
                assert "poison" not in error.message
            else:
                assert fate in {"wait", "cancel"}
                np.testing.assert_array_equal(answer.outputs["y"], request(*values)["x"] * 2)
                np.testing.assert_array_equal(answer.outputs["first"].ravel(), values)

        async with batcher(model, max_batch=max_rows, instances=instances) as batches:
            await asyncio.gather(*(one(*call, batches) for call in calls))
        assert all(len(batch) <= max_rows for batch in model.batches)

    asyncio.run(scenario())


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


async def test_a_request_that_expires_in_the_queue_is_not_computed() -> None:
    model = Model()
    async with batcher(model) as batches:
        first = await busy(model, batches)
        deadline = time.monotonic() + 0.05
        late = asyncio.create_task(batches.submit(request(1.0), CallOptions(deadline)))
        on_time = asyncio.create_task(batches.submit(request(2.0), FOREVER))
        await until(lambda: time.monotonic() > deadline)
        model.gate.set()
        with pytest.raises(DeadlineExceededError):
            await late
        await asyncio.gather(first, on_time)
    assert model.computed == [100.0, 2.0]
    assert model.counted("inference_deadline_expired_total", phase="queue") == 1


async def test_a_caller_cancelled_by_its_deadline_is_counted_as_expired() -> None:
    model = Model()
    async with batcher(model) as batches:
        first = await busy(model, batches)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await batches.submit(request(1.0), CallOptions(time.monotonic() + 0.02))
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
    clock = Clock()
    monkeypatch.setattr("services.inference.batches.time", clock)
    monkeypatch.setattr("services.inference.batching.time", clock)

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
