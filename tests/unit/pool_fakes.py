"""A pool with a loader and a catalogue that a test holds in its hand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import cast

from model_store.manifest import FileEntry
from services.inference.batching import Batcher
from services.inference.catalogue import NO_TRACE, Carrier, Catalogue
from services.inference.engines import Engine, Engines
from services.inference.leases import Leases
from services.inference.limits import Gate, Limits, ModelLimits
from services.inference.memory import MemoryBudget
from services.inference.metrics import EngineMetrics
from services.inference.pool import Pool
from services.inference.rollouts.rollouts import AliasKey, Rollouts
from services.inference.runtimes.runtime import Tensors
from services.inference.served import ServedModel
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.client.registry import RegistryClient
from tests.fixtures.inference import manifest_of

LIMITS = Limits(max_batch=1, threads=1, queue_size=1)
FILES = (
    FileEntry(path="model.onnx", sha256="0" * 64, size_bytes=1, role="graph"),
    FileEntry(path="golden.safetensors", sha256="0" * 64, size_bytes=1, role="golden"),
)


class FakeCatalogue:
    """Aliases that a test sets."""

    def __init__(self) -> None:
        self.aliases: dict[AliasKey, int] = {}
        self.models = {"m", "n"}
        self.revision = 0
        self.caught_up = False
        self.rollouts = Rollouts(cast(RegistryClient, None))
        self.limits = ModelLimits(LIMITS)
        self._queue: asyncio.Queue[AliasKey] = asyncio.Queue()

    def aliases_of(self, model: str) -> dict[str, int]:
        return {alias: version for (name, alias), version in self.aliases.items() if name == model}

    def set(self, model: str, alias: str, version: int | None) -> None:
        if version is None:
            del self.aliases[model, alias]
        else:
            self.aliases[model, alias] = version
        self._queue.put_nowait((model, alias))

    async def changes(self) -> AsyncIterator[tuple[AliasKey, Carrier]]:
        self.caught_up = True
        while True:
            yield await self._queue.get(), NO_TRACE


class FakeLeases:
    """Counts who is held."""

    def __init__(self) -> None:
        self.held: Counter[tuple[str, int]] = Counter()

    async def acquire(self, model: str, version: int) -> None:
        self.held[model, version] += 1

    async def release(self, model: str, version: int) -> None:
        self.held[model, version] -= 1

    async def keep(self) -> None:
        await asyncio.Event().wait()


class Loaded:
    """A model in memory."""

    def __init__(self) -> None:
        self.closed = False
        self.released = False
        self.failure: Exception | None = None

    def run(self, inputs: Tensors) -> Tensors:
        return inputs

    def close(self) -> None:
        self.closed = True
        if self.failure:
            raise self.failure

    def release(self) -> None:
        assert self.closed
        self.released = True


class FakeLoader:
    """Loads at once, or when a test lets it, or fails as a test wishes."""

    def __init__(self) -> None:
        self.gates: dict[tuple[str, int], asyncio.Event] = {}
        self.failures: dict[tuple[str, int], list[Exception]] = {}
        self.loads: list[tuple[str, int]] = []
        self.memory: dict[tuple[str, int], Loaded] = {}
        self.prunes = 0

    async def load(self, model: str, number: int) -> ServedModel:
        key = (model, number)
        self.loads.append(key)
        if gate := self.gates.get(key):
            await gate.wait()
        if failures := self.failures.get(key):
            raise failures.pop(0)
        loaded = self.memory[key] = Loaded()
        batcher = Batcher(loaded.run, EngineMetrics.of(model, "onnxruntime"), LIMITS, instances=1)

        async def load(name: str) -> Engine:
            return Engine(loaded, batcher, loaded.release)

        engines = Engines(["onnxruntime"], load)
        await engines.start()
        return ServedModel(manifest_of(model, FILES), number, "digest", engines, Gate(model, LIMITS))

    async def prune(self) -> None:
        self.prunes += 1

    async def close(self) -> None:
        assert all(loaded.closed for loaded in self.memory.values())


class World:
    """A pool with everything around it."""

    def __init__(self) -> None:
        self.catalogue, self.loader, self.leases = FakeCatalogue(), FakeLoader(), FakeLeases()
        self.pool = Pool(cast(Catalogue, self.catalogue), self.loader, cast(Leases, self.leases), MemoryBudget(0), max_on_demand=1)

    def states(self) -> dict[tuple[str, int], str]:
        return {(slot.model, slot.version): slot.state.value for slot, _ in self.pool.slots()}

    def answering(self) -> dict[tuple[str, str], int]:
        return {(slot.model, alias): slot.version for slot, aliases in self.pool.slots() for alias in aliases}

    async def find(self, model: str, **selector: object) -> ServedModel:
        return await self.pool.find(ModelSelector(model=model, **selector))  # type: ignore[arg-type]
