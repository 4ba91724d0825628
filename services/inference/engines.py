"""The runtimes in which one version is loaded: the one that its manifest prefers, and others once they are asked for or needed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from copy import copy

import structlog

from services.inference.batches import Answer
from services.inference.batching import Batcher
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import LoadedModel, Tensors
from tessera.client.wishes import RUNTIME_KEY
from tessera.errors import FailedPreconditionError, TesseraError, UnavailableError

log = structlog.get_logger()

RETRY_FAILED_S = 5.0
"""A runtime that could not load the version is not tried again for every request."""


class Engine:
    """A version in one runtime.

    Args:
        loaded: From the runtime.
        batcher: Its queue.
        release: Lets go of its files; called when it has been unloaded.
    """

    def __init__(self, loaded: LoadedModel, batcher: Batcher, release: Callable[[], None]) -> None:
        self._loaded = loaded
        self._batcher = batcher
        self._release = release

    async def submit(self, inputs: Tensors, options: CallOptions) -> Answer:
        """Compute one request; see `Batcher.submit`."""
        return await self._batcher.submit(inputs, options)

    async def close(self) -> None:
        """Unload it. Nobody may use it any more."""
        try:
            await self._batcher.close()
            await asyncio.to_thread(self._loaded.close)
        finally:
            self._release()


class Engines:
    """All engines of one version.

    A call that names a runtime is computed there, loaded first if need be. Any other goes to the first runtime; while that is UNAVAILABLE,
    to the next that the version carries. However many calls wait for a runtime, it is loaded once.

    Args:
        names: Runtimes that the version carries a graph for, the preferred one first.
        load: Loads and proves the version in one of them, or raises a TesseraError.
    """

    def __init__(self, names: Sequence[str], load: Callable[[str], Awaitable[Engine]]) -> None:
        self.names = tuple(names)
        self._load = load
        self._loaded: dict[str, Engine] = {}
        self._loading: dict[str, asyncio.Task[Engine]] = {}
        self._failures: dict[str, tuple[float, TesseraError]] = {}

    @property
    def loaded(self) -> list[str]:
        """Runtimes in which the version is loaded, sorted."""
        return sorted(self._loaded)

    @property
    def loading(self) -> bool:
        """Whether a runtime is being loaded, for which calls may wait."""
        return bool(self._loading)

    async def start(self) -> None:
        """Load the version in its first runtime, or in the next while that is UNAVAILABLE.

        Raises:
            TesseraError: See `Loader.load`; UnavailableError only if none is available.
        """
        problem: UnavailableError | None = None
        for name in self.names:
            try:
                await self._find(name)
            except UnavailableError as error:
                problem = problem or error
            else:
                return
        assert problem, "a version carries at least one runtime"
        raise problem

    async def submit(self, inputs: Tensors, options: CallOptions) -> Answer:
        """Compute one request; see `Batcher.submit`.

        Raises:
            FailedPreconditionError: The version has no graph for the runtime that the call names.
            UnavailableError: The runtime does not work now, and there is no other that may answer.
        """
        if options.runtime:
            return await (await self._find(options.runtime)).submit(inputs, options)
        try:
            if engine := self._loaded.get(self.names[0]):
                return await engine.submit(inputs, options)
            self._begin(self.names[0])  # in the background: another one is loaded
        except UnavailableError as error:
            return await self._elsewhere(inputs, options, error)
        return await self._elsewhere(inputs, options, None)

    async def close(self) -> None:
        """Unload it everywhere. Nobody may use it any more."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        engines = [self._loaded.pop(name) for name in self.loaded]
        for outcome in await asyncio.gather(*(engine.close() for engine in engines), return_exceptions=True):
            if outcome:
                raise outcome

    async def _elsewhere(self, inputs: Tensors, options: CallOptions, problem: TesseraError | None) -> Answer:
        """Compute a request in any runtime but the first, those that are loaded before others."""
        for name in sorted(self.names[1:], key=lambda name: name not in self._loaded):
            try:
                engine = await self._find(name)
            except TesseraError as error:
                problem = problem or error
                continue
            try:
                return await engine.submit(inputs, options)
            except UnavailableError as error:
                problem = problem or error
        assert problem, "without a problem another runtime is loaded"
        raise problem

    async def _find(self, name: str) -> Engine:
        """Return the version in a runtime; load it first if it is not there."""
        if engine := self._loaded.get(name):
            return engine
        if name not in self.names:
            known = ", ".join(self.names)
            raise FailedPreconditionError(f"the version has no graph for the runtime {name!r}; it has {known}", field=RUNTIME_KEY)
        self._begin(name)
        if task := self._loading.get(name):
            return await asyncio.shield(task)
        raise copy(self._failures[name][1])  # each caller's own: a traceback would grow with every one

    def _begin(self, name: str) -> None:
        """Begin to load the version in a runtime, unless that has begun already or has failed just now."""
        failed = self._failures.get(name)
        if name not in self._loading and (failed is None or time.monotonic() - failed[0] > RETRY_FAILED_S):
            self._loading[name] = asyncio.create_task(self._add(name))
            self._loading[name].add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be waiting

    async def _add(self, name: str) -> Engine:
        try:
            engine = self._loaded[name] = await self._load(name)
        except TesseraError as error:
            self._failures[name] = (time.monotonic(), copy(error))  # without its traceback, which holds what was loaded
            if len(self.names) > 1:  # of its only runtime whoever loads the version tells
                log.warning("a version could not be loaded in a runtime", runtime=name, reason=error.message)
            raise
        finally:
            del self._loading[name]
        return engine
