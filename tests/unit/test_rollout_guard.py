"""How a version on trial is judged: what is counted, over which time, and when it has to go."""

import pytest

from services.inference.rollouts.guard import judge
from services.inference.rollouts.windows import FAULTS, MOST_CALLS, Summary, Window
from tessera.api.registry.v1.registry_pb2 import RolloutGuard
from tessera.times import to_duration

GUARD = RolloutGuard(
    min_requests=100,
    max_error_rate_increase=0.01,
    max_latency_ratio=1.5,
    min_latency_increase=to_duration(0.005),
    window=to_duration(300),
)
GOOD = Summary(1000, 0, p50_s=0.010, p95_s=0.020)


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "candidate",
    [
        Summary(),
        Summary(99, 99),
        Summary(100, 1, 0.010, 0.020),
        Summary(1000, 10, 0.010, 0.020),
        Summary(1000, 0, 0.015, 0.030),
        Summary(1000, 0, 0.001, 0.002),
    ],
)
def test_a_candidate_stays_within_the_margins_and_before_it_was_seen_enough(candidate: Summary) -> None:
    assert judge(GUARD, GOOD, candidate) is None


@pytest.mark.parametrize(
    ("candidate", "cause", "numbers"),
    [
        (Summary(100, 2, 0.010, 0.020), "error_rate", "2.00% (2 of 100) against 0.00% (0 of 1000); allowed is 1.00% more"),
        (Summary(100, 100), "error_rate", "100.00% (100 of 100)"),
        (Summary(100, 0, 0.016, 0.020), "latency", "p50 latency 16.0 ms over 100 calls against 10.0 ms over 1000"),
        (Summary(100, 0, 0.010, 0.031), "latency", "p95 latency 31.0 ms over 100 calls against 20.0 ms over 1000"),
    ],
)
def test_a_candidate_that_is_worse_by_more_than_the_margin_goes_and_the_reason_has_the_numbers(
    candidate: Summary, cause: str, numbers: str
) -> None:
    breach = judge(GUARD, GOOD, candidate)
    assert breach
    assert breach.cause == cause
    assert numbers in breach.reason


def test_errors_count_against_those_of_the_stable_version() -> None:
    assert judge(GUARD, Summary(1000, 300), Summary(100, 31)) is None
    assert judge(GUARD, Summary(1000, 300), Summary(100, 32))
    assert judge(GUARD, Summary(), Summary(100, 2)), "with all traffic on the candidate there is nothing to compare with"


def test_small_latencies_may_differ_by_any_ratio() -> None:
    assert judge(GUARD, Summary(1000, 0, 0.0001, 0.0002), Summary(1000, 0, 0.0050, 0.0051)) is None
    assert judge(GUARD, Summary(1000, 0, 0.0001, 0.0002), Summary(1000, 0, 0.0052, 0.0053))


def test_latencies_are_compared_once_both_versions_have_answered_enough() -> None:
    slow = Summary(200, 0, 1.0, 2.0)
    assert judge(GUARD, Summary(99, 0, 0.01, 0.02), slow) is None
    assert judge(GUARD, Summary(1000, 901, 0.01, 0.02), slow) is None
    assert judge(GUARD, Summary(100, 0, 0.01, 0.02), slow)
    assert judge(GUARD, GOOD, Summary(100, 1, 1.0, 2.0)) is None, "99 answers"


def test_a_guard_can_be_told_to_look_at_one_thing_alone() -> None:
    guard = RolloutGuard()
    guard.CopyFrom(GUARD)
    guard.max_error_rate_increase = 1.0
    assert judge(guard, GOOD, Summary(1000, 1000)) is None
    guard.max_latency_ratio = 1000.0
    assert judge(guard, GOOD, Summary(1000, 0, 5.0, 9.0)) is None


def test_a_window_slides() -> None:
    clock = Clock()
    window = Window(clock)
    assert window.summary(60) == Summary()
    for seconds in (0.1, 0.2, 0.3, None):
        window.add(seconds)
        clock.now += 10
    summary = window.summary(60)
    assert [summary.calls, summary.failed, summary.p50_s, summary.p95_s] == pytest.approx([4, 1, 0.2, 0.29])
    assert window.summary(15) == Summary(1, 1)
    clock.now += 100
    assert window.summary(60) == Summary()


def test_a_window_keeps_the_newest_calls() -> None:
    window = Window(Clock())
    window.add(None)
    for _ in range(MOST_CALLS):
        window.add(0.5)
    assert window.summary(60) == Summary(MOST_CALLS, 0, 0.5, 0.5)


def test_what_callers_do_wrong_is_no_fault_of_a_version() -> None:
    callers = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED", "CANCELLED"}
    assert not FAULTS & {"OK", *callers}
