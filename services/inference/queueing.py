"""The requests that wait for one version: who is next, and who can be computed together."""

from collections import OrderedDict
from itertools import islice

from services.inference.batches import Request
from services.inference.options import Priority

TURN = 8
"""One batch in so many is led by whoever has waited longest, whatever its priority: no priority starves."""
LOOK_AHEAD = 8
"""Company for a batch is sought among so many times the rows for which it has room."""


class Queue:
    """Requests by priority, and in the order of their arrival within one.

    Every operation takes the same time however many wait, but for `take`, which takes as long as the batch is large.
    """

    def __init__(self) -> None:
        self._lanes: tuple[OrderedDict[Request, None], ...] = tuple(OrderedDict() for _ in Priority)
        self._rows = [0] * len(Priority)
        self._waiting = 0
        self._taken = 0

    def __len__(self) -> int:
        return self._waiting

    def rows(self, priority: Priority = Priority.LOW) -> int:
        """Return the rows that wait with this priority or a higher one."""
        return sum(self._rows[: priority + 1])

    def add(self, request: Request) -> None:
        """Let a request wait behind all others of its priority."""
        priority = request.options.priority
        self._lanes[priority][request] = None
        self._rows[priority] += request.rows
        self._waiting += 1

    def discard(self, request: Request) -> bool:
        """Take a request out if it waits here; tell whether it did."""
        priority = request.options.priority
        lane = self._lanes[priority]
        if request not in lane:
            return False
        del lane[request]
        self._rows[priority] -= request.rows
        self._waiting -= 1
        return True

    def take(self, max_rows: int, alive_after: float) -> tuple[list[Request], list[Request]]:
        """Take the next batch out, and every request on the way to it that has come too late.

        The batch is led by the oldest request of the highest priority, and filled with others of its kind, in the order in which they
        would lead. Kinds are treated fairly, since everybody leads at last: a batch only overtakes those that it does not delay.

        Args:
            max_rows: Most rows in the batch.
            alive_after: A request comes too late if its deadline is not after this.

        Returns:
            The batch, empty if nobody waits, and those that came too late.
        """
        late: list[Request] = []
        self._taken += 1
        while (first := self._first()) and first.options.deadline <= alive_after:
            self.discard(first)
            late.append(first)
        if first is None:
            return [], late
        self.discard(first)
        batch = [first]
        rows = first.rows
        for lane in self._lanes:
            if lane and rows < max_rows:
                company, gone = _company(lane, first.kind, max_rows - rows, alive_after)
                for request in (*company, *gone):
                    self.discard(request)
                batch += company
                late += gone
                rows += sum([request.rows for request in company])
        return batch, late

    def _first(self) -> Request | None:
        """Return the request that leads the next batch."""
        if self._taken % TURN == 0:
            return min((next(iter(lane)) for lane in self._lanes if lane), key=lambda head: head.queued, default=None)
        return next((next(iter(lane)) for lane in self._lanes if lane), None)


def _company(lane: OrderedDict[Request, None], kind: object, room: int, alive_after: float) -> tuple[list[Request], list[Request]]:
    """Return the first requests of a kind in a lane that fit into `room` rows, and those on the way to them that come too late."""
    company: list[Request] = []
    late: list[Request] = []
    for request in islice(lane, room * LOOK_AHEAD):
        if request.options.deadline <= alive_after:
            late.append(request)
        elif request.rows <= room and request.kind == kind:
            company.append(request)
            room -= request.rows
            if not room:
                break
    return company, late
