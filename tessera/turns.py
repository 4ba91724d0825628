"""Turns in writing to a database that does not give them out itself, in the order in which threads come."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from tessera.errors import UnavailableError


class Turns:
    """One thread at a time; next is the one that has waited longest. Other locks go to whoever is quick, and one may wait for ever."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self.taken = False
        """Whether somebody has a turn; while others wait somebody has."""

    @contextmanager
    def turn(self, timeout_s: float) -> Iterator[None]:
        """Wait for one's turn, and have it during the block.

        Args:
            timeout_s: Longest wait, seconds.

        Raises:
            UnavailableError: It took longer.
        """
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            if not self.taken:
                self._next()
        try:
            if not mine.wait(timeout_s):
                raise UnavailableError(
                    f"the database is unavailable: others have been writing for more than {timeout_s:g} seconds", retry_after_s=1.0
                )
            yield
        finally:  # also where the wait was broken off, or the turn came just then: a turn that nobody takes would hold up all others
            with self._lock:
                if mine.is_set():
                    self._next()
                else:
                    self._waiting.remove(mine)

    def _next(self) -> None:
        self.taken = bool(self._waiting)
        if self.taken:
            self._waiting.popleft().set()
