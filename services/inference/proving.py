"""From a graph to a model in memory that has proven itself: within its time, within its memory, and without slowing down others."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass

from services.inference.golden import Golden
from services.inference.memory import MemoryBudget, Reservation
from services.inference.runtimes.runtime import LoadedModel, Runtime, RuntimeOptions, Tensors
from tessera.background import LOW_PRIORITY, NicedThread, in_background
from tessera.errors import UnavailableError
from tessera.memory import resident_memory


@dataclass(frozen=True)
class Subject:
    """A version that shall be loaded in a runtime, with its files at hand.

    Args:
        model: Its model.
        version: Its number.
        runtime: The runtime.
        options: What the server grants it.
        graph_bytes: Size of the graph.
        max_rows: Most rows in a batch.
        max_memory_bytes: Most bytes of memory that it may take up; 0 for no limit of its own.
        load: Loads the graph in the runtime; blocking.
        golden: Reads the golden example; blocking.
    """

    model: str
    version: int
    runtime: Runtime
    options: RuntimeOptions
    graph_bytes: int
    max_rows: int
    max_memory_bytes: int
    load: Callable[[], LoadedModel]
    golden: Callable[[], Golden]


class Prover:
    """Loads versions, warms them up and checks their golden examples; those that live in this process one after the other.

    Args:
        memory: What they may take up.
        timeout_s: Seconds that each may take.
    """

    def __init__(self, memory: MemoryBudget, timeout_s: float) -> None:
        self._memory = memory
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._endings: set[asyncio.Task[None]] = set()

    async def prove(self, subject: Subject, owned: ExitStack) -> LoadedModel:
        """Return a version that is in memory and has proven itself.

        Args:
            subject: The version.
            owned: What it uses as long as it is in memory, the memory itself included; to be closed when it has been unloaded. If nobody
                waits any more for a load that still runs, what is in it is kept until that has ended.

        Raises:
            FailedPreconditionError: The graph or the golden example is not as it should be.
            ResourceExhaustedError: There is not enough memory.
            UnavailableError: The runtime does not work now, or it took too long.
        """
        async with self._turn if subject.runtime.in_process else nullcontext():
            estimate = subject.runtime.memory_for(subject.graph_bytes)
            reserving = self._memory.reserve(subject.model, subject.version, estimate, own_limit=subject.max_memory_bytes)
            reservation = owned.enter_context(await reserving)
            proof = _Proof(subject, reservation)
            loaded = await self._run(proof, owned)
            try:
                reservation.resize(proof.need_bytes)
            except BaseException:
                await in_background(loaded.close)
                raise
            return loaded

    async def _run(self, proof: "_Proof", owned: ExitStack) -> LoadedModel:
        """Run a proof to its end, or leave it to itself when its time is over or nobody waits any more: a thread cannot be stopped."""
        subject = proof.subject
        work = asyncio.ensure_future(in_background(proof.run))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(work)
        except TimeoutError:
            self._leave(work, proof, owned)
            raise UnavailableError(
                f"{subject.model} version {subject.version} was not loaded, warmed up and checked within {self._timeout_s:g} seconds "
                "(TESSERA_INFERENCE_LOAD_TIMEOUT_S)"
            ) from None
        except asyncio.CancelledError:
            await asyncio.wait({self._leave(work, proof, owned)}, timeout=self._timeout_s)
            raise

    def _leave(self, work: asyncio.Future[LoadedModel], proof: "_Proof", owned: ExitStack) -> asyncio.Task[None]:
        proof.stop.set()
        ending = asyncio.create_task(_end(work, owned.pop_all()))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending


async def _end(work: asyncio.Future[LoadedModel], owned: ExitStack) -> None:
    """Unload what nobody waits for, once it is loaded, and only then let go of what it uses."""
    with owned, suppress(Exception):
        loaded = await work
        await in_background(loaded.close)


class _Proof:
    """One load in its thread: `stop` and the memory are looked at after every step.

    Args:
        subject: What is loaded.
        reservation: Memory that it may take up.
    """

    def __init__(self, subject: Subject, reservation: Reservation) -> None:
        self.subject = subject
        self.stop = threading.Event()
        self.need_bytes = reservation.bytes
        self._reservation = reservation

    def run(self) -> LoadedModel:
        """Load, warm up and check the version; see `Prover.prove`."""
        subject = self.subject
        # The threads of a session outlive its loading, and would compute requests at a low priority.
        low_priority = subject.runtime.in_process and subject.options.threads == 1
        with NicedThread(LOW_PRIORITY if low_priority else 0) as worker:
            golden = subject.golden()
            before = resident_memory()
            loaded = worker.call(subject.load)
            try:
                weights = max(subject.graph_bytes, resident_memory() - before)
                self._measure(weights, 0)

                def step(inputs: Tensors) -> Tensors:
                    if self.stop.is_set():
                        raise UnavailableError("nobody waits for this load any more")
                    outputs = worker.call(loaded.run, inputs)
                    self._measure(weights, resident_memory() - before - weights)
                    return outputs

                golden.warm_up(step, subject.max_rows)
                golden.check(step, subject.max_rows)
            except BaseException:
                loaded.close()
                raise
            return loaded

    def _measure(self, weights: int, batch: int) -> None:
        """Correct the estimate by what is seen of the version in this process; batches that are computed together need each their own."""
        if self.subject.runtime.in_process:
            self.need_bytes = weights + max(0, batch) * self.subject.options.instances
            self._reservation.check(self.need_bytes)
