"""Leases of one server, with a registry that answers when a test lets it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from services.inference.leases import Leases
from tessera.client.registry import RegistryClient
from tessera.errors import NotFoundError, UnavailableError
from tests.fixtures.waiting import until


class FakeRegistry:
    """One lease for a holder and a version, as the registry has it."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.calls: list[str] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def acquire_lease(self, holder: str, ttl_s: float, *, model: str, version: int) -> object:
        lease_id = f"{holder}/{model}/{version}"
        await self._answer("acquire", lambda: self.held.add(lease_id))
        return SimpleNamespace(lease_id=lease_id)

    async def release_lease(self, lease_id: str) -> None:
        await self._answer("release", lambda: self.held.discard(lease_id))

    async def _answer(self, call: str, change: Callable[[], None]) -> None:
        self.calls.append(call)
        await self.gate.wait()
        if self.failure:
            raise self.failure
        change()


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    yield FakeRegistry()


def leases_of(registry: FakeRegistry, ttl_s: float = 60.0) -> Leases:
    return Leases(cast(RegistryClient, registry), "me", ttl_s)


async def test_a_version_held_twice_is_released_with_the_second_release(registry: FakeRegistry) -> None:
    leases = leases_of(registry)
    await leases.acquire("m", 1)
    await leases.acquire("m", 1)
    await leases.release("m", 1)
    assert registry.held
    await leases.release("m", 1)
    assert not registry.held


async def test_a_release_on_its_way_does_not_take_the_lease_of_who_comes_next(registry: FakeRegistry) -> None:
    leases = leases_of(registry)
    await leases.acquire("m", 1)
    registry.gate.clear()
    releasing = asyncio.create_task(leases.release("m", 1))
    await until(lambda: registry.calls == ["acquire", "release"])
    acquiring = asyncio.create_task(leases.acquire("m", 1))
    await asyncio.sleep(0)
    assert registry.calls == ["acquire", "release"]  # it waits for its turn
    registry.gate.set()
    await asyncio.gather(releasing, acquiring)
    assert registry.held


async def test_a_renewal_on_its_way_does_not_outlive_the_release(registry: FakeRegistry) -> None:
    leases = leases_of(registry, ttl_s=0.03)
    await leases.acquire("m", 1)
    registry.gate.clear()
    keeping = asyncio.create_task(leases.keep())
    await until(lambda: registry.calls == ["acquire", "acquire"])
    releasing = asyncio.create_task(leases.release("m", 1))
    await asyncio.sleep(0)
    registry.gate.set()
    await releasing
    assert not registry.held
    keeping.cancel()


async def test_a_lease_that_cannot_be_had_holds_nothing(registry: FakeRegistry) -> None:
    leases = leases_of(registry)
    registry.failure = NotFoundError("no such version")
    with pytest.raises(NotFoundError):
        await leases.acquire("m", 1)
    registry.failure = None
    await leases.acquire("m", 1)
    await leases.release("m", 1)
    assert not registry.held


async def test_a_release_without_registry_raises_nothing(registry: FakeRegistry) -> None:
    leases = leases_of(registry)
    await leases.acquire("m", 1)
    registry.failure = UnavailableError("away")
    await leases.release("m", 1)


async def test_renewing_goes_on_when_one_renewal_fails(registry: FakeRegistry) -> None:
    leases = leases_of(registry, ttl_s=0.03)
    await leases.acquire("m", 1)
    registry.failure = UnavailableError("away")
    keeping = asyncio.create_task(leases.keep())
    await until(lambda: len(registry.calls) > 2)
    registry.held.clear()
    registry.failure = None
    await until(lambda: registry.held)
    keeping.cancel()


async def test_nothing_is_kept_of_versions_that_are_not_held(registry: FakeRegistry) -> None:
    leases = leases_of(registry)
    await leases.acquire("m", 1)
    await leases.release("m", 1)
    registry.failure = NotFoundError("no such version")
    for number in range(100):
        with pytest.raises(NotFoundError):
            await leases.acquire("m", number)
    assert not leases._users
    assert not leases._turns
    assert not leases._ids
