"""What a version answered lately: how many calls, how many of them failed, and how long the others took."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOST_CALLS = 2000
"""Most calls that are looked at, the newest; the registry lets no guard ask for more."""

FAULTS = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "DATA_LOSS"})
"""Codes that are the fault of the model or of the server; a deadline that is missed may be the model's slowness, which is for the
comparison with the other version to say."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a version answered within a window.

    Args:
        calls: Those that were answered or failed; not those that were wrong or given up by their callers.
        failed: Calls that ended with one of `FAULTS`.
        p50_s: Median of the latency of those that did not fail, seconds; 0 if there are none.
        p95_s: Their 95th percentile.
    """

    calls: int = 0
    failed: int = 0
    p50_s: float = 0.0
    p95_s: float = 0.0

    @property
    def answered(self) -> int:
        """Calls that did not fail."""
        return self.calls - self.failed

    @property
    def error_rate(self) -> float:
        """Share of the calls that failed, 0 to 1."""
        return self.failed / self.calls if self.calls else 0.0


class Window:
    """The newest calls of one version.

    Args:
        clock: Answers the present, seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: deque[tuple[float, float | None]] = deque(maxlen=MOST_CALLS)

    def add(self, seconds: float | None) -> None:
        """Count a call that was answered in this time, or (None) failed."""
        self._calls.append((self._clock(), seconds))

    def summary(self, window_s: float) -> Summary:
        """Return what the calls of the last so many seconds were like; older ones are forgotten."""
        oldest = self._clock() - window_s
        while self._calls and self._calls[0][0] < oldest:
            self._calls.popleft()
        latencies = [seconds for _, seconds in self._calls if seconds is not None]
        failed = len(self._calls) - len(latencies)
        if not latencies:
            return Summary(len(self._calls), failed)
        p50, p95 = np.percentile(latencies, (50, 95))
        return Summary(len(self._calls), failed, float(p50), float(p95))
