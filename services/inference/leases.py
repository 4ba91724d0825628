"""Leases in the registry on what this server holds, so that nothing is deleted under it."""

import asyncio
from collections import Counter
from weakref import WeakValueDictionary

import structlog

from tessera.client.registry import RegistryClient
from tessera.errors import NotFoundError, TesseraError

log = structlog.get_logger()

RELEASE_TIMEOUT_S = 2.0
VersionKey = tuple[str, int]


class Leases:
    """The leases of one server; a version that is held twice (an old one draining, the same one loading again) has one lease.

    Args:
        registry: Where they are kept.
        holder: Name of this server.
        ttl_s: Seconds that a lease outlives a server that died; renewed at a third of it.
    """

    def __init__(self, registry: RegistryClient, holder: str, ttl_s: float) -> None:
        self._registry = registry
        self._holder = holder
        self._ttl_s = ttl_s
        self._users: Counter[VersionKey] = Counter()
        self._ids: dict[VersionKey, str] = {}
        # The registry has one lease for a holder and a version: a release must not overtake, or be overtaken by, an acquisition.
        self._turns: WeakValueDictionary[VersionKey, asyncio.Lock] = WeakValueDictionary()  # kept by those who wait

    async def acquire(self, model: str, version: int) -> None:
        """Hold a version.

        Raises:
            NotFoundError: There is no such version.
            UnavailableError: The registry cannot be reached.
        """
        self._users[model, version] += 1
        try:
            await self._renew(model, version)
        except BaseException:
            self._leave(model, version)
            raise

    async def release(self, model: str, version: int) -> None:
        """Let go of a version. Without the registry the lease simply runs out."""
        self._leave(model, version)
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S), self._turn(model, version):
                if not self._users[model, version] and (lease := self._ids.pop((model, version), "")):
                    await self._registry.release_lease(lease)
        except (TesseraError, TimeoutError) as error:
            log.warning("a lease could not be released and will run out", model=model, version=version, reason=str(error))

    async def keep(self) -> None:
        """Renew all leases, for ever."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            for model, version in list(self._ids):
                await self._keep(model, version)

    async def _keep(self, model: str, version: int) -> None:
        try:
            await self._renew(model, version)
        except NotFoundError:
            log.error("a version that is served here was deleted", model=model, version=version)
        except TesseraError as error:
            log.warning("a lease could not be renewed", model=model, version=version, reason=error.message)

    async def _renew(self, model: str, version: int) -> None:
        async with self._turn(model, version):
            if self._users[model, version]:  # it may have been let go of while this waited
                lease = await self._registry.acquire_lease(self._holder, self._ttl_s, model=model, version=version)
                self._ids[model, version] = lease.lease_id

    def _leave(self, model: str, version: int) -> None:
        self._users[model, version] -= 1
        if not self._users[model, version]:  # callers may ask for any version, so nothing is kept of those that are not here
            del self._users[model, version]

    def _turn(self, model: str, version: int) -> asyncio.Lock:
        return self._turns.setdefault((model, version), asyncio.Lock())
