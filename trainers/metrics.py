"""What a worker measures."""

import time
from collections.abc import Callable

from prometheus_client import Histogram

EPOCH_SECONDS = Histogram(
    "worker_epoch_seconds",
    "How long epochs took, evaluation and checkpoint included",
    ["family"],
    buckets=[0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600, 4 * 3600],
)


class EpochTimes:
    """Measures the epochs of one attempt from what its training process tells.

    Args:
        family: That is trained.
        clock: Answers seconds.
    """

    def __init__(self, family: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = EPOCH_SECONDS.labels(family)
        self._clock = clock
        self._begun: float | None = None
        self._last = 0

    def train(self) -> None:
        """The training is at work on its epochs; the first begins when this is told first."""
        if self._begun is None:
            self._begun = self._clock()

    def resumed(self, epoch: int) -> None:
        """Epochs up to this one were trained by an earlier attempt; they are told again and do not count."""
        self._last = epoch

    def finished(self, epoch: int) -> None:
        """An epoch is finished, and the next begins."""
        now = self._clock()
        if epoch > self._last and self._begun is not None:
            self._seconds.observe(now - self._begun)
            self._last, self._begun = epoch, now
