"""A loaded version that answers requests, and what becomes of a version on its way here."""

import asyncio
import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Self

from model_store.manifest import Manifest
from services.inference.batches import Answer
from services.inference.engines import Engines
from services.inference.limits import Gate
from services.inference.metrics import ModelMetrics
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from services.inference.statistics import Statistics
from tessera.client.calls import is_interruption
from tessera.errors import TesseraError
from tessera.tensors import Array


@dataclass(frozen=True)
class ServedTask:
    """A task whose versions this server can serve.

    Args:
        name: As in manifests.
        revision: Of the pre- and postprocessing that this server has.
        check: Raises FailedPreconditionError if a manifest is not one of this task.
    """

    name: str
    revision: int
    check: Callable[[Manifest], None]


class ServedModel:
    """A version in memory. `with served:` around every use: it is not unloaded before the last user has left.

    Args:
        manifest: Of the version.
        version: Its number.
        digest: sha256 of the manifest as stored.
        engines: What computes it.
        gate: Counts the calls of its model.
        constants: Arrays that its task needs beside the graph.
    """

    def __init__(
        self,
        manifest: Manifest,
        version: int,
        digest: str,
        engines: Engines,
        gate: Gate,
        *,
        constants: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        self.manifest = manifest
        self.constants = constants
        self.model = manifest.model
        self.version = version
        self.digest = digest
        self.metrics = ModelMetrics.of(manifest.model)
        self.statistics = Statistics()
        self.in_flight = 0
        self._engines = engines
        self._gate = gate
        self._unused = asyncio.Event()
        self._unused.set()

    def __enter__(self) -> Self:
        """Begin to use it. Raises ResourceExhaustedError if its model has as many calls in flight as it may have."""
        self._gate.enter()
        self.hold()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._gate.leave()
        self.let_go()

    def hold(self) -> None:
        """Keep it from being unloaded, without being counted as a call of the model."""
        self.in_flight += 1
        self._unused.clear()

    def let_go(self) -> None:
        """End what `hold` began."""
        self.in_flight -= 1
        if not self.in_flight:
            self._unused.set()

    @property
    def runtimes(self) -> list[str]:
        """Runtimes in which it is loaded, sorted."""
        return self._engines.loaded

    @property
    def loading(self) -> bool:
        """Whether it is being loaded in another runtime, for which its calls may wait."""
        return self._engines.loading

    def carries(self, runtime: str) -> bool:
        """Tell whether it can answer a call that names this runtime, or (empty) none."""
        return not runtime or runtime in self._engines.names

    async def submit(self, inputs: Tensors, options: CallOptions) -> Answer:
        """Compute one request; see `Engines.submit`."""
        return await self._engines.submit(inputs, options)

    async def close(self) -> None:
        """Wait until nobody uses it, then unload it. Nobody may begin to use it meanwhile."""
        await self._unused.wait()
        await self._engines.close()


class State(enum.Enum):
    """The stage of a version on its way through this server; named as in `ServedState`."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


@dataclass(eq=False)
class Slot:
    """The place of one version in the pool.

    Args:
        model: Its model.
        version: Its number.
        on_demand: Whether a request asked for exactly this version.
        attempt: 1 for the first try to load it.
        trouble: What the try before this one ran into; empty for the first.
        state: Its stage.
        served: What answers; set once READY.
        error: Why it FAILED.
        settled: Set when it is no longer LOADING.
        created: When it was asked for, on the clock of `time.monotonic`.
        finished: When it became READY or FAILED.
        used: When a request asked for it by number last.
    """

    model: str
    version: int
    on_demand: bool = False
    attempt: int = 1
    trouble: str = ""
    state: State = State.LOADING
    served: ServedModel | None = None
    error: TesseraError | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    created: float = field(default_factory=time.monotonic)
    finished: float = 0.0
    used: float = field(default_factory=time.monotonic)

    def settle(self, outcome: ServedModel | TesseraError) -> None:
        """Become READY with a served model, or FAILED with an error."""
        self.finished = time.monotonic()
        if isinstance(outcome, ServedModel):
            self.served, self.state = outcome, State.READY
        else:
            self.error, self.state = outcome, State.FAILED
        self.settled.set()

    def failed_within(self, seconds: float) -> bool:
        """Tell whether it FAILED, and not longer ago than this."""
        return self.error is not None and time.monotonic() - self.finished <= seconds

    @property
    def interruption(self) -> str:
        """What keeps it from being loaded although that may pass, now or until it is tried again; empty if nothing does."""
        if self.error is not None:
            return self.error.message if is_interruption(self.error) else ""
        return self.trouble if self.state is State.LOADING else ""

    @property
    def last_used(self) -> float:
        """When it was asked for or became ready: whoever waited for that has not used it yet."""
        return max(self.used, self.finished)
