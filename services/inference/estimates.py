"""When a request would be answered: reckoned from what the batches of its version took lately.

Batches whose rows lie between the same powers of 2 are of one size. Of each size the last times are kept. They count for some seconds;
after that only the best of them does, so that a version that was slow once is not thought slow for ever.
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

KEPT = 64
"""Times of a size that are kept."""
CAUTION = 0.95
"""Quantile of the times of a size that is reckoned with: with a mean every second request would come too late."""
MARGIN = 1.1
"""What is reckoned is raised by a tenth: a batch may grow until it begins, and an answer has to travel."""
FORGET_S, FORGET_TIMES = 5.0, 4.0
"""A time counts for so many seconds, or so many times itself if that is longer."""
FASTER, IN_A_ROW = 0.5, 8
"""A version has become faster if so many batches of a size in a row took less than this part of what was expected of them."""
SURE = 3
"""So many batches of a size must have been too slow before it is called too slow: the first one may have been an accident."""
PROBE_S = 0.5
"""Nothing is called too slow if the last batch is longer ago than this, or than its own time: one request is let through to find out."""
NEWEST = 0.2
"""Weight of the newest batch in the mean of the rows that leave a queue together."""


class Size:
    """The times of the batches of one size, in seconds."""

    __slots__ = ("_fast", "_sorted", "_times", "_until", "cautious", "fastest")

    def __init__(self) -> None:
        self._times: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []
        self._fast = 0
        self._until = self.cautious = self.fastest = 0.0

    def add(self, seconds: float, now: float) -> bool:
        """Keep the time of a batch that has ended now; tell whether the version has become faster, and forget what was before if so."""
        times = self._sorted
        self._fast = self._fast + 1 if seconds < FASTER * self.cautious else 0
        if faster := self._fast == IN_A_ROW:
            self._times.clear()
            times.clear()
        while self._times and (self._times[0][0] <= now or len(times) == KEPT):
            del times[bisect_left(times, self._times.popleft()[1])]
        self._until = now + max(FORGET_S, FORGET_TIMES * seconds)
        self._times.append((self._until, seconds))
        insort(times, seconds)
        self.cautious, self.fastest = times[int(CAUTION * len(times))], times[0]
        return faster

    def expected(self, now: float) -> float:
        """Return the time that a batch should hardly exceed."""
        return self.cautious if now < self._until else self.fastest

    def sure(self, now: float) -> bool:
        """Tell whether enough batches say that none is faster than `fastest`."""
        return now < self._until and len(self._times) >= SURE


@dataclass(eq=False, frozen=True, slots=True)
class Running:
    """A batch that is being computed: its rows, when it began and when it should end."""

    rows: int
    started: float
    end: float


class Estimates:
    """What is known of the speed of one version in one runtime. All moments are on one clock, in seconds."""

    def __init__(self) -> None:
        self._sizes: dict[int, Size] = {}
        self._running: set[Running] = set()
        self._packed: float | None = None
        self._ended = 0
        self._fastest = 0.0
        self._sure_until = 0.0
        self.running = 0
        """Batches that are being computed."""

    def begin(self, rows: int, now: float, *, others_wait: bool) -> Running:
        """Note that a batch begins.

        Args:
            rows: Its rows.
            now: The moment.
            others_wait: Whether requests stayed behind, so that it tells how many rows leave the queue at once.
        """
        if others_wait:
            self._packed = rows if self._packed is None else self._packed + NEWEST * (rows - self._packed)
        running = Running(rows, now, now + self.seconds(rows, now))
        self._running.add(running)
        self.running += 1
        return running

    def end(self, running: Running, now: float) -> None:
        """Note that a batch has ended, and learn from it."""
        self._running.remove(running)
        self.running -= 1
        seconds = now - running.started
        index = _size(running.rows)
        size = self._sizes.get(index) or Size()
        if size.add(seconds, now):
            self._sizes.clear()  # what is known of other sizes is from slower times
        self._sizes[index] = size
        self._fastest = min([size.fastest for size in self._sizes.values()])
        self._ended += 1
        self._sure_until = now + max(PROBE_S, seconds)

    def seconds(self, rows: int, now: float) -> float:
        """Return the time that a batch of so many rows should hardly exceed; 0 while no batch was computed at all.

        A size that was never computed is thought like the next larger one, or else like the largest: to refuse nobody without a reason.
        """
        wanted = _size(rows)
        size = self._sizes.get(wanted)
        if size is None:
            if not self._sizes:
                return 0.0
            size = self._sizes[min((known for known in self._sizes if known > wanted), default=max(self._sizes))]
        return size.expected(now)

    def least(self, rows: int, now: float) -> float:
        """Return the time within which no batch of so many rows is answered; 0 if that is not sure."""
        size = self._sizes.get(_size(rows))
        return size.fastest if size and now < self._sure_until and size.sure(now) else 0.0

    def least_of_all(self, now: float) -> float:
        """Return the time within which no batch at all is answered; 0 if that is not sure."""
        return self._fastest if self._ended >= SURE and now < self._sure_until else 0.0

    def until_answer(self, rows: int, ahead: int, *, instances: int, max_rows: int, now: float) -> float:
        """Return the seconds after which a request that came now should be answered at the latest.

        Args:
            rows: Its rows.
            ahead: Rows that wait and would go before it.
            instances: Batches that may be computed at the same time.
            max_rows: Most rows in a batch.
            now: The moment.
        """
        if not self._sizes:
            return 0.0
        if self.running < instances:
            return self.least(rows, now)
        packed = max(1, min(round(self._packed or max_rows), max_rows))
        before = (ahead + rows - 1) // packed
        # A batch that is overdue may as well take as long again.
        free = sorted([abs(running.end - now) for running in self._running])[-instances:]
        waves, instance = divmod(before, instances)
        begin = free[instance] + (waves * self.seconds(packed, now) if waves else 0.0)
        return MARGIN * (begin + self.seconds(min(ahead + rows, max_rows), now))


def _size(rows: int) -> int:
    return (rows - 1).bit_length()
