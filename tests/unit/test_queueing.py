"""Who is next, who may come along, and who has to go."""

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from opentelemetry.trace import INVALID_SPAN

from services.inference.batches import Request
from services.inference.options import CallOptions, Priority
from services.inference.queueing import TURN, Queue

HIGH, NORMAL, LOW = Priority
NOW = 100.0


def request(queued: float, priority: Priority = NORMAL, *, rows: int = 1, kind: str = "a", deadline: float = float("inf")) -> Request:
    return Request({"x": np.zeros((rows, 1))}, rows, kind, CallOptions(deadline, priority), cast(Any, None), INVALID_SPAN, queued)


def queue_of(requests: Sequence[Request]) -> Queue:
    queue = Queue()
    for one in requests:
        queue.add(one)
    return queue


def take(queue: Queue, max_rows: int) -> list[Request]:
    batch, late = queue.take(max_rows, NOW)
    assert not late
    return batch


def test_higher_priorities_go_first_and_equal_ones_as_they_came() -> None:
    low, second, first, high = request(0, LOW), request(2), request(1), request(3, HIGH)
    queue = queue_of([low, first, second, high])
    assert [take(queue, 1) for _ in range(4)] == [[high], [first], [second], [low]]
    assert take(queue, 1) == []


def test_a_batch_is_filled_by_priority_too() -> None:
    low, normal, high = request(0, LOW), request(1), request(2, HIGH)
    assert take(queue_of([low, normal, high]), 2) == [high, normal]


def test_the_lowest_priority_is_not_starved_by_a_stream_of_the_highest() -> None:
    queue = queue_of([request(0, LOW)])
    batches = []
    for number in range(TURN):
        queue.add(request(number + 1.0, HIGH))
        batches += take(queue, 1)
    assert [one.options.priority for one in batches].count(LOW) == 1


def test_a_batch_gathers_its_kind_from_the_whole_queue_and_kinds_take_turns() -> None:
    requests = [request(number, kind="ab"[number % 2]) for number in range(8)]
    queue = queue_of(requests)
    assert take(queue, 4) == requests[::2]
    assert take(queue, 4) == requests[1::2]


def test_a_rare_kind_is_not_passed_over_for_ever() -> None:
    queue = queue_of([request(0, kind="common"), request(1, kind="rare")])
    leaders = []
    for number in range(3):
        for each in range(4):
            queue.add(request(2 + number + each / 10, kind="common"))
        leaders.append(take(queue, 4)[0].kind)
    assert leaders[:2] == ["common", "rare"]


def test_a_smaller_request_fills_a_gap_that_the_next_one_does_not_fit_into() -> None:
    first, large, small = request(0, rows=5), request(1, rows=5), request(2, rows=3)
    queue = queue_of([first, large, small])
    assert take(queue, 8) == [first, small]
    assert take(queue, 8) == [large]


def test_a_request_larger_than_a_batch_may_be_by_now_goes_alone() -> None:
    large, small = request(0, rows=8), request(1)
    queue = queue_of([large, small])
    assert (take(queue, 4), take(queue, 4)) == ([large], [small])


def test_what_comes_too_late_is_handed_back_and_not_computed() -> None:
    gone, first, late, second = request(0, deadline=NOW), request(1), request(2, deadline=NOW - 1), request(3, deadline=NOW + 1)
    queue = queue_of([gone, first, late, second])
    assert queue.take(8, NOW) == ([first, second], [gone, late])
    assert (len(queue), queue.rows()) == (0, 0)


def test_rows_are_counted_by_priority() -> None:
    high = request(0, HIGH, rows=2)
    queue = queue_of([high, request(1, NORMAL, rows=3), request(2, LOW, rows=4)])
    assert [queue.rows(priority) for priority in Priority] == [2, 5, 9]
    assert queue.discard(high)
    assert not queue.discard(high)
    assert ([queue.rows(priority) for priority in Priority], len(queue)) == ([0, 3, 7], 2)


def test_leaving_a_long_queue_costs_no_more_than_leaving_a_short_one() -> None:
    """Counted in comparisons rather than in time: a queue that is searched compares what it finds."""
    comparisons = 0

    class Compared(Request):
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return self is other

    requests = [Compared({}, 1, "a", CallOptions(), cast(Any, None), INVALID_SPAN, time.monotonic()) for _ in range(5000)]
    queue = queue_of(requests)
    for one in reversed(requests):
        assert queue.discard(one)
    assert comparisons < 100
