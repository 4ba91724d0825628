"""Versions share the memory of a server: what does not fit is refused, what can be spared makes room, and nothing is counted twice."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from services.inference.memory import MemoryBudget
from tessera.errors import ResourceExhaustedError

MIB = 2**20


def metric(model: str) -> float | None:
    return REGISTRY.get_sample_value("inference_memory_reserved_bytes", {"model": model})


async def test_memory_is_taken_corrected_and_given_back() -> None:
    budget = MemoryBudget(100 * MIB)
    with await budget.reserve("memory", 1, 60 * MIB) as first, await budget.reserve("memory", 2, 30 * MIB):
        assert budget.free_bytes == 10 * MIB
        first.resize(20 * MIB)
        assert budget.free_bytes == 50 * MIB
        assert (budget.reserved_bytes("memory", 1), budget.reserved_bytes("memory", 2)) == (20 * MIB, 30 * MIB)
        assert metric("memory") == 50 * MIB
    assert budget.free_bytes == 100 * MIB
    assert budget.reserved_bytes("memory", 1) == 0
    assert metric("memory") is None
    assert REGISTRY.get_sample_value("inference_memory_limit_bytes") == 100 * MIB


async def test_what_does_not_fit_is_refused_with_what_it_needs_and_what_there_is() -> None:
    budget = MemoryBudget(100 * MIB)
    with await budget.reserve("memory", 1, 60 * MIB):
        with pytest.raises(ResourceExhaustedError) as refused:
            await budget.reserve("memory", 2, 41 * MIB)
        for part in (
            "memory version 2 needs 41.0 MiB",
            "of the 100.0 MiB",
            "40.0 MiB are free",
            "TESSERA_INFERENCE_MEMORY_BYTES",
            "replaced",
        ):
            assert part in refused.value.message
        assert budget.free_bytes == 40 * MIB


async def test_a_version_may_not_grow_beyond_what_is_free_and_keeps_what_it_had() -> None:
    budget = MemoryBudget(100 * MIB)
    with await budget.reserve("memory", 1, 60 * MIB) as grows, await budget.reserve("memory", 2, 30 * MIB):
        grows.resize(70 * MIB)
        with pytest.raises(ResourceExhaustedError, match=r"needs 71\.0 MiB .* 70\.0 MiB are free"):
            grows.resize(71 * MIB)
        assert budget.reserved_bytes("memory", 1) == 70 * MIB


async def test_the_limit_of_a_model_counts_for_each_of_its_versions() -> None:
    budget = MemoryBudget(100 * MIB)
    with await budget.reserve("memory", 1, 20 * MIB, own_limit=20 * MIB) as reservation:
        with pytest.raises(
            ResourceExhaustedError, match=r"needs 21\.0 MiB of memory; its model may take up 20\.0 MiB \(max_memory_bytes\)"
        ):
            reservation.check(21 * MIB)
        with await budget.reserve("memory", 2, 20 * MIB, own_limit=20 * MIB):
            assert budget.free_bytes == 60 * MIB


async def test_what_can_be_spared_makes_room_as_long_as_it_is_needed() -> None:
    budget = MemoryBudget(100 * MIB)
    spared = [await budget.reserve("spared", number, 30 * MIB) for number in (1, 2, 3)]

    async def make_room() -> bool:
        await asyncio.sleep(0)
        if not spared:
            return False
        with spared.pop():
            return True

    budget.make_room = make_room
    with await budget.reserve("memory", 1, 60 * MIB):
        assert len(spared) == 1
        with pytest.raises(ResourceExhaustedError):
            await budget.reserve("memory", 2, 60 * MIB)
        assert spared == []


async def test_nothing_is_unloaded_for_a_version_that_can_never_fit() -> None:
    budget = MemoryBudget(100 * MIB)

    async def make_room() -> bool:
        raise AssertionError("it would not help")

    budget.make_room = make_room
    with pytest.raises(ResourceExhaustedError):
        await budget.reserve("memory", 1, 101 * MIB)
    with pytest.raises(ResourceExhaustedError):
        await budget.reserve("memory", 1, 50 * MIB, own_limit=40 * MIB)
