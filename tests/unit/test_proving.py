"""A load is bounded in time and in memory, and what it used is let go of when its thread has ended, not before."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from services.inference import proving
from services.inference.golden import Golden
from services.inference.memory import MemoryBudget
from services.inference.proving import Prover, Subject
from services.inference.runtimes.runtime import RuntimeOptions, Tensors
from tessera.errors import FailedPreconditionError, ResourceExhaustedError, UnavailableError
from tests.fixtures.waiting import until

ROWS = np.zeros((1, 2), np.float32)


class Runtime:
    """A runtime, and the model that it loads; what it does at a step is up to the test."""

    instances = 1

    def __init__(self, *, in_process: bool = True, on_load: Callable[[], object] = lambda: None) -> None:
        self.in_process = in_process
        self.closed = threading.Event()
        self.batches: list[int] = []
        self.on_load = on_load
        self.on_run: Callable[[int], None] = lambda rows: None

    def memory_for(self, graph_bytes: int) -> int:
        return 5 * graph_bytes

    def load(self) -> "Runtime":
        self.on_load()
        return self

    def run(self, inputs: Tensors) -> Tensors:
        rows = len(inputs["x"])
        self.on_run(rows)
        self.batches.append(rows)
        return {"y": inputs["x"]}

    def close(self) -> None:
        self.closed.set()


def subject(runtime: Runtime, *, instances: int = 1, max_memory_bytes: int = 0) -> Subject:
    return Subject(
        "m",
        1,
        runtime,  # type: ignore[arg-type]  # its load takes no arguments
        RuntimeOptions(instances=instances),
        graph_bytes=100,
        max_rows=4,
        max_memory_bytes=max_memory_bytes,
        load=runtime.load,
        golden=lambda: Golden({"x": ROWS}, {"y": ROWS}, 0.0, 0.0),
    )


def held(gate: threading.Event) -> tuple[threading.Event, Runtime]:
    """Return a runtime that loads when the gate opens, and what tells that it has begun to."""
    begun = threading.Event()

    def load() -> None:
        begun.set()
        gate.wait(30)

    return begun, Runtime(on_load=load)


class Gauge:
    """The memory of the process, as a test wants it to be."""

    def __init__(self) -> None:
        self.bytes = 1000

    def __call__(self) -> int:
        return self.bytes


@pytest.fixture(autouse=True)
def resident(monkeypatch: pytest.MonkeyPatch) -> Gauge:
    gauge = Gauge()
    monkeypatch.setattr(proving, "resident_memory", gauge)
    return gauge


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end of a test whatever happens, so that no thread waits for ever."""
    event = threading.Event()
    yield event
    event.set()


async def test_the_estimate_is_corrected_by_what_was_measured(resident: Gauge, owned: ExitStack) -> None:
    def grow(rows: int) -> None:
        resident.bytes = max(resident.bytes, 1300 + 10 * rows)

    runtime = Runtime(on_load=lambda: setattr(resident, "bytes", 1300))
    runtime.on_run = grow
    budget = MemoryBudget(10_000)
    assert await Prover(budget, 30).prove(subject(runtime, instances=3), owned) is runtime
    assert runtime.batches[:3] == [1, 2, 4]
    assert budget.reserved_bytes("m", 1) == 300 + 3 * 40  # the weights once, the largest batch three times
    owned.close()
    assert budget.free_bytes == 10_000


async def test_a_graph_takes_up_its_size_at_least_whatever_was_measured(resident: Gauge, owned: ExitStack) -> None:
    budget = MemoryBudget(10_000)
    await Prover(budget, 30).prove(subject(Runtime()), owned)
    assert budget.reserved_bytes("m", 1) == 100


async def test_a_model_outside_this_process_keeps_its_estimate(resident: Gauge, owned: ExitStack) -> None:
    budget = MemoryBudget(10_000)
    await Prover(budget, 30).prove(subject(Runtime(in_process=False)), owned)
    assert budget.reserved_bytes("m", 1) == 500


async def test_batches_that_need_too_much_are_noticed_before_the_largest_is_computed(resident: Gauge, owned: ExitStack) -> None:
    runtime = Runtime()
    runtime.on_run = lambda rows: setattr(resident, "bytes", 1000 + 400 * rows)
    budget = MemoryBudget(600)
    with pytest.raises(ResourceExhaustedError, match="m version 1 needs"):
        await Prover(budget, 30).prove(subject(runtime), owned)
    assert runtime.batches == [1, 2]
    assert runtime.closed.is_set()
    owned.close()
    assert budget.free_bytes == 600


async def test_a_version_that_needs_more_than_its_model_may_is_unloaded(resident: Gauge, owned: ExitStack) -> None:
    runtime = Runtime(on_load=lambda: setattr(resident, "bytes", 1501))
    with pytest.raises(ResourceExhaustedError, match="max_memory_bytes"):
        await Prover(MemoryBudget(10_000), 30).prove(subject(runtime, max_memory_bytes=500), owned)
    assert runtime.closed.is_set()
    assert runtime.batches == []


async def test_a_golden_example_that_does_not_come_out_unloads_the_version(owned: ExitStack) -> None:
    runtime = Runtime()
    wrong = subject(runtime)
    wrong = Subject(**{**wrong.__dict__, "golden": lambda: Golden({"x": ROWS}, {"y": ROWS + 1}, 0.0, 0.0)})
    with pytest.raises(FailedPreconditionError, match="golden"):
        await Prover(MemoryBudget(10_000), 30).prove(wrong, owned)
    assert runtime.closed.is_set()


async def test_a_load_that_hangs_is_given_up_and_keeps_its_memory_and_files_until_its_thread_has_ended(
    owned: ExitStack, gate: threading.Event
) -> None:
    released: list[str] = []
    owned.callback(released.append, "files")
    runtime = Runtime(on_load=lambda: gate.wait(30))
    budget = MemoryBudget(10_000)
    prover = Prover(budget, 0.05)
    with pytest.raises(UnavailableError, match=r"not loaded, warmed up and checked within 0\.05 seconds"):
        await prover.prove(subject(runtime), owned)
    owned.close()
    assert released == []
    assert budget.free_bytes == 9_500
    prover._timeout_s = 30  # the machine may be busy
    other = Runtime(in_process=False)
    with ExitStack() as others:
        assert await Prover(budget, 30).prove(subject(other), others) is other  # nobody else is held up
    gate.set()
    await until(lambda: released == ["files"])
    assert budget.free_bytes == 10_000
    assert runtime.closed.is_set()
    assert runtime.batches == []  # it was stopped at the next step


async def test_whoever_stops_waiting_for_a_load_gets_its_thread_ended_first(owned: ExitStack, gate: threading.Event) -> None:
    begun, runtime = held(gate)
    budget = MemoryBudget(10_000)
    caller = asyncio.create_task(Prover(budget, 30).prove(subject(runtime), owned))
    assert await asyncio.to_thread(begun.wait, 30)
    caller.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert runtime.closed.is_set()
    assert budget.free_bytes == 10_000


async def test_versions_of_this_process_are_loaded_one_after_the_other_and_others_beside_them(gate: threading.Event) -> None:
    begun, first = held(gate)
    second = Runtime(on_load=lambda: None if gate.is_set() else pytest.fail("it did not wait for its turn"))
    elsewhere = Runtime(in_process=False)
    prover = Prover(MemoryBudget(10_000), 30)
    with ExitStack() as owned, ExitStack() as others:
        loading = asyncio.create_task(prover.prove(subject(first), owned))
        assert await asyncio.to_thread(begun.wait, 30)
        waiting = asyncio.create_task(prover.prove(subject(second), others))
        assert await prover.prove(subject(elsewhere), others) is elsewhere
        gate.set()
        assert await loading is first
        assert await waiting is second
