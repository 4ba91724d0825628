"""What is known of a server's disk that is full: only what its answers to writes say."""

import time

from tessera.errors import ResourceExhaustedError

MEMORY_S = 5.0
"""How long a write that found no room is remembered, seconds."""


class Fullness:
    """Remembers for a while that a write found no room; reading goes on, so a check that only reads would call a full server well."""

    def __init__(self) -> None:
        self._reason = ""
        self._until = 0.0

    def found(self, error: ResourceExhaustedError) -> None:
        """Note a write that found no room."""
        self._reason, self._until = error.message, time.monotonic() + MEMORY_S

    def check(self) -> None:
        """Raise ResourceExhaustedError with the reason while it is remembered."""
        if time.monotonic() < self._until:
            raise ResourceExhaustedError(self._reason)
