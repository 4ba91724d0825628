"""A model under more load than it can bear, in virtual time: real queue, real estimates, real batcher, and a clock that jumps."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest

from services.inference.batching import Batcher
from services.inference.limits import Limits
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions, Priority
from services.inference.runtimes.runtime import Tensors
from tessera.errors import DeadlineExceededError, ResourceExhaustedError
from tests.fixtures.virtual_time import Clock, run_virtually

MAX_BATCH = 32
names = (f"overload-{number}" for number in count())


@dataclass
class World:
    """A batcher with a model that takes its time, and what became of those who called it.

    Args:
        seconds: Time of a batch by its rows and the moment, before chance has its part.
        instances: Of the model.
        spread: Standard deviation of the logarithm of the time of a batch.
    """

    seconds: Callable[[int, float], float]
    instances: int = 1
    spread: float = 0.1
    clock: Clock = field(default_factory=Clock)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    deadlines: dict[int, float] = field(default_factory=dict)
    dead_rows: int = 0
    late_rows: int = 0
    outcomes: dict[int, tuple[str, float, float]] = field(default_factory=dict)

    def run(self, inputs: Tensors) -> Tensors:
        began = self.clock.monotonic()
        ids = inputs["id"][:, 0]
        self.clock.spend(self.seconds(len(ids), began) * self.random.lognormal(0, self.spread))
        deadlines = np.array([self.deadlines[int(id_)] for id_ in ids])
        self.dead_rows += int((deadlines <= began).sum())
        self.late_rows += int((deadlines <= self.clock.monotonic()).sum())
        return {"id": inputs["id"]}

    def batcher(self, queue_size: int = 100_000) -> Batcher:
        limits = Limits(max_batch=MAX_BATCH, threads=1, queue_size=queue_size)
        return Batcher(self.run, EngineMetrics.of(next(names), "onnxruntime"), limits, instances=self.instances)

    async def call(self, batcher: Batcher, id_: int, patience: float, priority: Priority = Priority.NORMAL, rows: int = 1) -> None:
        """Call as gRPC would: the caller is cut off when its deadline passes."""
        came = self.clock.now
        self.deadlines[id_] = came + patience
        outcome = "answered"
        try:
            async with asyncio.timeout_at(self.deadlines[id_]):
                answer = await batcher.submit({"id": np.full((rows, 1), id_)}, CallOptions(self.deadlines[id_], priority))
            assert (answer.outputs["id"] == id_).all()
        except ResourceExhaustedError as error:
            assert error.retry_after_s
            outcome = "refused"
        except (TimeoutError, DeadlineExceededError):
            outcome = "expired"
        self.outcomes[id_] = (outcome, came, self.clock.now - came)

    async def load(self, batcher: Batcher, rate: float, seconds: float, patience: float, priority: Priority = Priority.NORMAL) -> None:
        """Call at random moments, so many times a second."""
        end = self.clock.now + seconds
        async with asyncio.TaskGroup() as calls:
            while self.clock.now < end:
                await asyncio.sleep(self.random.exponential(1 / rate))
                calls.create_task(self.call(batcher, len(self.deadlines), patience, priority))

    def tally(self, first: float = 0.0, last: float = float("inf")) -> Counter[str]:
        """Count the outcomes of those who came in a span of time."""
        return Counter(outcome for outcome, came, _ in self.outcomes.values() if first <= came < last)


def affine(fixed: float, each: float) -> Callable[[int, float], float]:
    """Return a model whose batches take `fixed` seconds and `each` seconds a row."""
    return lambda rows, now: fixed + each * rows


def capacity(world: World) -> float:
    """Return the most rows a second that the model can compute."""
    return world.instances * MAX_BATCH / world.seconds(MAX_BATCH, 0.0)


MODELS = [affine(0.004, 0.001), affine(0.02, 0.0005), affine(0.001, 0.004)]


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seconds", MODELS)
def test_at_twice_the_capacity_goodput_stays_and_what_is_accepted_ends_in_time(
    seconds: Callable[[int, float], float], spread: float, instances: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(seconds, instances, spread)
    full = capacity(world)
    span = 2500 / full

    async def scenario() -> None:
        await world.load(world.batcher(), 2 * full, span, patience=6 * seconds(MAX_BATCH, 0.0))

    began = world.clock.now
    run_virtually(monkeypatch, world.clock, scenario())
    settled = world.tally(first=began + span / 10)  # by then every size of batch was measured
    assert settled["answered"] >= 0.8 * full * 0.9 * span
    assert settled["refused"] > 0
    assert settled["expired"] <= (0 if spread == 0 else 0.01 * settled["answered"])
    assert world.dead_rows == 0
    assert world.late_rows <= 0.01 * world.tally()["answered"]


def test_refusals_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(MODELS[0])

    async def scenario() -> None:
        await world.load(world.batcher(), 3 * capacity(world), 2.0, patience=0.15)

    run_virtually(monkeypatch, world.clock, scenario())
    assert {took for outcome, _, took in world.outcomes.values() if outcome == "refused"} == {0.0}


def test_below_the_capacity_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(MODELS[0])

    async def scenario() -> None:
        await world.load(world.batcher(), 0.7 * capacity(world), 5.0, patience=0.25)

    run_virtually(monkeypatch, world.clock, scenario())
    assert set(world.tally()) == {"answered"}


def test_high_priority_is_served_through_a_flood_of_low_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(MODELS[0])
    full = capacity(world)

    async def scenario() -> None:
        batcher = world.batcher()
        async with asyncio.TaskGroup() as load:
            load.create_task(world.load(batcher, 3 * full, 3.0, 0.3, Priority.LOW))
            await asyncio.sleep(0.5)
            for _ in range(100):
                await asyncio.sleep(0.02)
                await world.call(batcher, -1, 0.15, Priority.HIGH)
                assert world.outcomes[-1][0] == "answered"

    run_virtually(monkeypatch, world.clock, scenario())
    assert world.tally()["answered"] >= 0.8 * full * 3.0


@pytest.mark.parametrize("slow", [10.0, 50.0])
def test_a_model_that_was_slow_for_a_while_is_trusted_again(slow: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is slow everything is refused, so that nothing tells how fast it has become, but for the probes."""
    clock = Clock()
    began = clock.now

    def seconds(rows: int, now: float) -> float:
        return MODELS[0](rows, now) * (slow if began + 2 <= now < began + 5 else 1)

    world = World(seconds, clock=clock)
    full = capacity(world)

    async def scenario() -> None:
        await world.load(world.batcher(), 2 * full, 10.0, patience=0.15)

    run_virtually(monkeypatch, clock, scenario())
    slow_batches = world.tally(first=began + 3, last=began + 5)
    assert slow_batches["refused"] > 0.9 * slow_batches.total()
    again = world.tally(first=began + 6, last=began + 10)
    assert again["answered"] >= 0.8 * full * 4
    assert again["expired"] <= 0.01 * again["answered"]
    assert world.dead_rows == 0


def test_one_accident_refuses_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very first batch takes 3 seconds; that must not keep everybody out."""
    clock = Clock()
    began = clock.now
    world = World(lambda rows, now: 3.0 if now == began else 0.005, spread=0.0, clock=clock)

    async def scenario() -> None:
        batcher = world.batcher()
        await world.call(batcher, 0, 5.0)
        await world.load(batcher, 50, 2.0, patience=0.1)

    run_virtually(monkeypatch, clock, scenario())
    assert world.tally(last=began + 4)["refused"] <= 10
    assert set(world.tally(first=began + 4)) == {"answered"}


def test_a_model_that_is_always_too_slow_is_tried_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(lambda rows, now: 0.2, spread=0.0)

    async def scenario() -> None:
        await world.load(world.batcher(), 100, 10.0, patience=0.1)

    run_virtually(monkeypatch, world.clock, scenario())
    tally = world.tally()
    assert tally["refused"] > 0.9 * tally.total()
    assert 5 <= world.late_rows <= 40  # a few at first, and then the probes


def test_a_large_request_among_small_ones_is_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch in two is filled by a single request, and no two of them fit together."""
    world = World(affine(0.001, 0.002), spread=0.05)

    async def scenario() -> None:
        batcher = world.batcher()

        async def large() -> None:
            async with asyncio.TaskGroup() as calls:
                for number in range(200):
                    await asyncio.sleep(0.03)
                    calls.create_task(world.call(batcher, 1_000_000 + number, 0.4, rows=20))

        async with asyncio.TaskGroup() as load:
            load.create_task(world.load(batcher, 300, 6.0, 0.4))
            load.create_task(large())

    began = world.clock.now
    run_virtually(monkeypatch, world.clock, scenario())
    settled = world.tally(first=began + 1)
    assert settled["refused"] > 0
    assert settled["expired"] <= 0.01 * settled["answered"]
    assert world.dead_rows == 0


def test_an_outage_of_batches_that_never_end_keeps_the_queue_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model hangs: those who come meanwhile are refused rather than kept until they expire."""
    clock = Clock()
    began = clock.now
    world = World(lambda rows, now: 60.0 if began + 1 <= now < began + 2 else 0.01, spread=0.0, clock=clock)

    async def scenario() -> None:
        await world.load(world.batcher(), 500, 10.0, patience=1.0)

    run_virtually(monkeypatch, clock, scenario())
    hanging = world.tally(first=began + 3)
    assert hanging["refused"] > 0.95 * hanging.total()
