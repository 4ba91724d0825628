"""The threads of one version: as many as it ever had instances."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread


class Threads:
    """Runs calls in threads. Unlike an executor's, their number can grow, and no call pays for a future that nobody looks at.

    Args:
        name: Beginning of the names of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def grow(self, count: int) -> None:
        """Have at least so many threads."""
        while len(self._threads) < count:
            thread = Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, call: Callable[[], None]) -> None:
        """Run a call, which must not raise, in the next thread that is free."""
        self._calls.put(call)

    def close(self) -> None:
        """End the threads after all calls; blocking."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while call := self._calls.get():
            call()
