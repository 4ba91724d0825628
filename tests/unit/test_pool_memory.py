"""When memory is short, versions without an alias make room; what still does not fit waits until something is unloaded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import cast

import numpy as np
import pytest

from services.inference.batching import Batcher
from services.inference.catalogue import Catalogue
from services.inference.engines import Engine, Engines
from services.inference.leases import Leases
from services.inference.limits import Gate, ModelLimits
from services.inference.memory import MemoryBudget
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions
from services.inference.pool import Pool
from services.inference.served import ServedModel
from tessera.api.registry.v1.registry_pb2 import ServingLimits
from tessera.errors import ResourceExhaustedError
from tests.fixtures.inference import manifest_of
from tests.fixtures.waiting import until
from tests.unit.pool_fakes import FILES, LIMITS, FakeLoader, Loaded, World

NEED, LIMIT = 10, 25
"""Two versions fit, a third does not."""


class HungryLoader(FakeLoader):
    """Takes memory for each version before it loads it and gives it back when it is unloaded, as the real one does."""

    def __init__(self, memory: MemoryBudget, limits: ModelLimits) -> None:
        super().__init__()
        self.budget = memory
        self.limits = limits

    async def load(self, model: str, number: int) -> ServedModel:
        with ExitStack() as owned:
            own_limit = self.limits.of(model).max_memory_bytes
            owned.enter_context(await self.budget.reserve(model, number, NEED, own_limit=own_limit))
            served = await super().load(model, number)
            kept = owned.pop_all()
        unload = served.close

        async def close() -> None:
            with kept:
                await unload()

        served.close = close  # type: ignore[method-assign]
        return served


class HungryWorld(World):
    """A pool whose memory is short."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryBudget(LIMIT)
        self.limits = self.catalogue.limits
        self.loader = HungryLoader(self.memory, self.limits)
        self.pool = Pool(cast(Catalogue, self.catalogue), self.loader, cast(Leases, self.leases), self.memory, max_on_demand=5)


@pytest.fixture
async def world() -> AsyncIterator[HungryWorld]:
    made = HungryWorld()
    await made.pool.start()
    yield made
    await made.pool.stop()
    assert not +made.leases.held
    assert made.memory.free_bytes == LIMIT


async def test_a_version_without_an_alias_that_was_used_longest_ago_makes_room(world: HungryWorld) -> None:
    for number in (1, 2):
        await world.find("m", version=number)
    await world.find("m", version=1)
    await world.find("m", version=3)
    assert world.states() == {("m", 1): "READY", ("m", 3): "READY"}


async def test_what_an_alias_names_is_not_unloaded_for_others(world: HungryWorld) -> None:
    for alias, number in (("champion", 1), ("candidate", 2)):
        world.catalogue.set("m", alias, number)
    await until(lambda: len(world.answering()) == 2)
    with pytest.raises(ResourceExhaustedError, match=r"m version 3 cannot be served: m version 3 needs"):
        await world.find("m", version=3)
    assert world.answering() == {("m", "champion"): 1, ("m", "candidate"): 2}


async def test_the_old_version_goes_on_answering_when_the_new_one_does_not_fit(world: HungryWorld) -> None:
    for model in ("m", "n"):
        world.catalogue.set(model, "champion", 1)
    await until(lambda: len(world.answering()) == 2)
    world.catalogue.set("m", "champion", 2)
    await until(lambda: world.states().get(("m", 2)) == "FAILED")
    assert (await world.find("m")).version == 1
    assert world.answering() == {("m", "champion"): 1, ("n", "champion"): 1}


async def test_what_did_not_fit_is_loaded_once_something_else_was_unloaded(world: HungryWorld) -> None:
    for model in ("m", "n"):
        world.catalogue.set(model, "champion", 1)
    await until(lambda: len(world.answering()) == 2)
    world.catalogue.set("m", "champion", 2)
    await until(lambda: world.states().get(("m", 2)) == "FAILED")
    world.catalogue.set("n", "champion", None)
    await until(lambda: world.answering() == {("m", "champion"): 2})
    await until(lambda: world.states() == {("m", 2): "READY"})


async def test_what_its_model_did_not_allow_is_loaded_once_the_limit_is_raised(world: HungryWorld) -> None:
    world.limits.learn("m", ServingLimits(max_memory_bytes=NEED - 1))
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.states() == {("m", 1): "FAILED"})
    with pytest.raises(ResourceExhaustedError, match="max_memory_bytes"):
        await world.find("m")
    world.limits.learn("m", ServingLimits(max_memory_bytes=NEED))
    await until(lambda: world.answering() == {("m", "champion"): 1})


async def test_a_version_in_use_makes_room_only_when_its_last_user_has_left(world: HungryWorld) -> None:
    world.catalogue.set("n", "champion", 1)
    await until(lambda: len(world.answering()) == 1)
    with await world.find("m", version=1):
        world.catalogue.set("m", "champion", 2)
        await until(lambda: world.states().get(("m", 1)) == "DRAINING")
        assert world.states()["m", 2] == "LOADING"
        assert ("m", 2) not in world.loader.loads
    await until(lambda: world.answering() == {("m", "champion"): 2, ("n", "champion"): 1})


async def test_a_lease_that_cannot_be_released_does_not_keep_a_version_on_its_way_out(
    world: HungryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = world.leases.release

    async def fail(model: str, version: int) -> None:
        await release(model, version)
        raise RuntimeError("not foreseen")

    for number in (1, 2):
        await world.find("m", version=number)
    monkeypatch.setattr(world.leases, "release", fail)
    await world.find("m", version=3)
    assert world.states() == {("m", 2): "READY", ("m", 3): "READY"}
    monkeypatch.undo()


class TwoRuntimesLoader(HungryLoader):
    """Its versions carry two graphs; each takes memory when it is loaded, and only one fits."""

    async def load(self, model: str, number: int) -> ServedModel:
        async def load(name: str) -> Engine:
            with ExitStack() as owned:
                owned.enter_context(await self.budget.reserve(model, number, LIMIT))
                loaded = self.memory[model, number] = Loaded()
                batcher = Batcher(loaded.run, EngineMetrics.of(model, name), LIMITS, instances=1)
                kept = owned.pop_all()

            def release() -> None:
                loaded.release()
                kept.close()

            return Engine(loaded, batcher, release)

        engines = Engines(["onnxruntime", "torchserve"], load)
        await engines.start()
        return ServedModel(manifest_of(model, FILES), number, "digest", engines, Gate(model, LIMITS))


async def test_a_version_makes_no_room_for_its_own_second_runtime_while_its_call_waits_for_that(world: HungryWorld) -> None:
    world.pool._loader = TwoRuntimesLoader(world.memory, world.limits)
    with await world.find("m", version=1) as served:
        async with asyncio.timeout(30):
            with pytest.raises(ResourceExhaustedError, match="needs"):
                await served.submit({"x": np.zeros((1, 1), np.float32)}, CallOptions(runtime="torchserve"))
    assert world.states() == {("m", 1): "READY"}
