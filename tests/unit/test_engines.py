"""Which runtime of a version computes a call, with engines that a test holds in its hand."""

import asyncio
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from services.inference import engines as module
from services.inference.batches import Answer
from services.inference.engines import Engine, Engines
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from tessera.errors import FailedPreconditionError, ResourceExhaustedError, TesseraError, UnavailableError

INPUTS = {"image": np.zeros((1, 1), np.float32)}


class FakeEngine:
    """Answers with its name, or raises what a test says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problem: TesseraError | None = None
        self.closed = False

    async def submit(self, inputs: Tensors, options: CallOptions) -> Answer:
        if self.problem:
            raise self.problem
        return Answer(inputs, 1, 0.0, 0.0, self.name)

    async def close(self) -> None:
        self.closed = True


class World:
    """A version with engines, and what loading them does."""

    def __init__(self, names: Sequence[str] = ("torchserve", "onnxruntime")) -> None:
        self.loads: list[str] = []
        self.problems: dict[str, TesseraError] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.made: dict[str, FakeEngine] = {}
        self.engines = Engines(names, self._load)

    async def _load(self, name: str) -> Engine:
        self.loads.append(name)
        if gate := self.gates.get(name):
            await gate.wait()
        if problem := self.problems.get(name):
            raise problem
        self.made[name] = FakeEngine(name)
        return cast(Engine, self.made[name])

    async def ask(self, runtime: str = "") -> str:
        return (await self.engines.submit(INPUTS, CallOptions(runtime=runtime))).runtime


async def test_a_version_is_loaded_in_the_runtime_that_it_prefers_alone() -> None:
    world = World()
    await world.engines.start()
    assert await world.ask() == "torchserve"
    assert world.engines.loaded == ["torchserve"]
    await world.engines.close()
    assert world.made["torchserve"].closed


async def test_another_runtime_is_loaded_once_however_many_ask_for_it() -> None:
    world = World()
    await world.engines.start()
    gate = world.gates["onnxruntime"] = asyncio.Event()
    asking = [asyncio.create_task(world.ask("onnxruntime")) for _ in range(5)]
    await asyncio.sleep(0)
    assert await world.ask() == "torchserve", "nobody else waits for it"
    asking[0].cancel()
    gate.set()
    assert await asyncio.gather(*asking[1:]) == ["onnxruntime"] * 4
    assert world.loads == ["torchserve", "onnxruntime"]
    assert world.engines.loaded == ["onnxruntime", "torchserve"]


async def test_while_a_runtime_is_unavailable_the_other_answers() -> None:
    world = World()
    await world.engines.start()
    world.made["torchserve"].problem = UnavailableError("down", retry_after_s=1.0)
    assert [await world.ask(), await world.ask()] == ["onnxruntime"] * 2
    world.made["torchserve"].problem = None
    assert await world.ask() == "torchserve"


async def test_who_names_a_runtime_gets_no_other() -> None:
    world = World()
    await world.engines.start()
    world.made["torchserve"].problem = UnavailableError("down", retry_after_s=1.0)
    with pytest.raises(UnavailableError) as caught:
        await world.ask("torchserve")
    assert caught.value.retry_after_s == 1.0


async def test_if_both_are_unavailable_the_problem_of_the_preferred_one_is_told() -> None:
    world = World()
    await world.engines.start()
    world.made["torchserve"].problem = UnavailableError("first", retry_after_s=1.0)
    world.problems["onnxruntime"] = FailedPreconditionError("no golden example")
    with pytest.raises(UnavailableError, match="first"):
        await world.ask()


async def test_an_error_of_another_kind_is_no_reason_to_ask_the_other_runtime() -> None:
    world = World()
    await world.engines.start()
    world.made["torchserve"].problem = ResourceExhaustedError("full")
    with pytest.raises(ResourceExhaustedError):
        await world.ask()
    assert world.loads == ["torchserve"]


async def test_a_version_starts_in_the_other_runtime_and_moves_when_the_preferred_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FAILED_S", 0.0)
    world = World()
    world.problems["torchserve"] = UnavailableError("does not start")
    await world.engines.start()
    gate = world.gates["torchserve"] = asyncio.Event()
    del world.problems["torchserve"]
    assert await world.ask() == "onnxruntime", "it does not wait for a start"
    gate.set()
    await world.engines._find("torchserve")
    assert await world.ask() == "torchserve"


async def test_a_runtime_that_failed_is_not_tried_for_every_call() -> None:
    world = World()
    await world.engines.start()
    world.problems["onnxruntime"] = FailedPreconditionError("no golden example")
    for _ in range(3):
        with pytest.raises(FailedPreconditionError, match="no golden example"):
            await world.ask("onnxruntime")
    assert world.loads == ["torchserve", "onnxruntime"]


async def test_a_runtime_without_a_graph_is_refused_with_those_that_have_one() -> None:
    world = World(["onnxruntime"])
    await world.engines.start()
    with pytest.raises(FailedPreconditionError, match="no graph for the runtime 'torchserve'; it has onnxruntime") as caught:
        await world.ask("torchserve")
    assert caught.value.field == "tessera-runtime"


async def test_what_is_being_loaded_while_the_version_goes_is_given_up() -> None:
    world = World()
    await world.engines.start()
    world.gates["onnxruntime"] = asyncio.Event()
    asking = asyncio.create_task(world.ask("onnxruntime"))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.sleep(0)
    await world.engines.close()
    assert world.engines.loaded == []
    assert "onnxruntime" not in world.made
