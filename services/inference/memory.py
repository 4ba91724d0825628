"""The memory that loaded versions may take up together: reserved before a version is loaded, so that one that does not fit harms nobody."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Self

from services.inference.leases import VersionKey
from services.inference.metrics import MEMORY_LIMIT, MEMORY_RESERVED
from tessera.errors import ResourceExhaustedError


class Reservation:
    """The part of the budget that one version takes up in one runtime; a context manager that gives it back.

    Args:
        budget: What it is part of.
        key: The version.
        own_limit: Most bytes that the version may take up; 0 for no limit of its own.
    """

    def __init__(self, budget: "MemoryBudget", key: VersionKey, own_limit: int) -> None:
        self.bytes = 0
        self._budget = budget
        self._key = key
        self._own_limit = own_limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.move(self._key, -self.bytes)
        self.bytes = 0

    def fits(self, need_bytes: int) -> bool:
        """Tell whether the budget has so many bytes for the version now."""
        return need_bytes - self.bytes <= self._budget.free_bytes

    def check(self, need_bytes: int) -> None:
        """Raise ResourceExhaustedError if the version cannot have so many bytes now; may be called by any thread."""
        need = f"{self._key[0]} version {self._key[1]} needs {_mebibytes(need_bytes)} of memory"
        if 0 < self._own_limit < need_bytes:
            raise ResourceExhaustedError(
                f"{need}; its model may take up {_mebibytes(self._own_limit)} (max_memory_bytes). Raise that limit, or lower max_batch"
            )
        if not self.fits(need_bytes):
            free, limit = self.bytes + self._budget.free_bytes, self._budget.limit_bytes
            raise ResourceExhaustedError(
                f"{need}; of the {_mebibytes(limit)} for all versions on this server (TESSERA_INFERENCE_MEMORY_BYTES) {_mebibytes(free)} "
                "are free. A version that is replaced keeps its memory until the new one answers. Give the server more memory, "
                "delete aliases that nobody needs, or lower max_batch"
            )

    def resize(self, need_bytes: int) -> None:
        """Take up so many bytes instead. Raises ResourceExhaustedError if the version cannot have them."""
        self.check(need_bytes)
        self._budget.move(self._key, need_bytes - self.bytes)
        self.bytes = need_bytes


class MemoryBudget:
    """What is reserved of a limit. To be changed on the event loop alone.

    Args:
        limit_bytes: Most memory that all versions may take up together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.make_room: Callable[[], Awaitable[bool]] | None = None
        """Unloads something that can be spared and waits for that; False if there is nothing. Set by the pool."""
        self._reserved_bytes = 0
        self._versions: Counter[VersionKey] = Counter()
        MEMORY_LIMIT.set(limit_bytes)

    @property
    def free_bytes(self) -> int:
        """Bytes that nothing has reserved."""
        return self.limit_bytes - self._reserved_bytes

    def reserved_bytes(self, model: str, version: int) -> int:
        """Return the bytes that a version takes up, in all runtimes together."""
        return self._versions[model, version]

    async def reserve(self, model: str, version: int, need_bytes: int, *, own_limit: int = 0) -> Reservation:
        """Reserve memory for a version; while there is too little, others that can be spared are unloaded.

        Args:
            model: Its model.
            version: Its number.
            need_bytes: How much.
            own_limit: See `Reservation`.

        Raises:
            ResourceExhaustedError: It does not fit; the message says how much is needed and free, and what would help.
        """
        reservation = Reservation(self, (model, version), own_limit)
        hopeless = need_bytes > self.limit_bytes or 0 < own_limit < need_bytes
        while not hopeless and not reservation.fits(need_bytes) and self.make_room and await self.make_room():
            pass
        reservation.resize(need_bytes)
        return reservation

    def move(self, key: VersionKey, change_bytes: int) -> None:
        """Count that a version takes up so many bytes more or, if negative, fewer."""
        self._reserved_bytes += change_bytes
        self._versions[key] += change_bytes
        if not self._versions[key]:
            del self._versions[key]
        model = key[0]
        if reserved := sum(count for (name, _), count in self._versions.items() if name == model):
            MEMORY_RESERVED.labels(model).set(reserved)
        else:
            MEMORY_RESERVED.remove_by_labels({"model": model})


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB"
