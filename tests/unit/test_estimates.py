"""When an answer is to be expected, told from the times of batches."""

import pytest

from services.inference.estimates import FORGET_S, IN_A_ROW, MARGIN, PROBE_S, SURE, Estimates

NOW = 1000.0


def measured(estimates: Estimates, *times: float, rows: int = 1, now: float = NOW) -> float:
    """Let batches run one after another; return when the last one ended."""
    for seconds in times:
        running = estimates.begin(rows, now, others_wait=False)
        now += seconds
        estimates.end(running, now)
    return now


def until_answer(estimates: Estimates, now: float, *, rows: int = 1, ahead: int = 0, instances: int = 1) -> float:
    return estimates.until_answer(rows, ahead, instances=instances, max_rows=8, now=now)


def test_nothing_is_refused_before_anything_was_measured() -> None:
    estimates = Estimates()
    assert until_answer(estimates, NOW) == 0
    estimates.begin(1, NOW, others_wait=False)
    assert until_answer(estimates, NOW + 1, ahead=1000) == 0


def test_the_time_of_a_batch_is_a_high_quantile_not_a_mean() -> None:
    estimates = Estimates()
    now = measured(estimates, *[0.1] * 57, *[0.2] * 7)
    assert estimates.seconds(1, now) == pytest.approx(0.2)
    now = measured(estimates, *[0.1] * 62, 0.2, 0.2, now=now)
    assert estimates.seconds(1, now) == pytest.approx(0.1), "two accidents among 64 do not count"


def test_sizes_are_told_apart_and_unknown_ones_are_like_their_neighbours() -> None:
    estimates = Estimates()
    now = measured(estimates, 0.1, rows=1)
    now = measured(estimates, 0.4, rows=8, now=now)
    assert [estimates.seconds(rows, now) for rows in (1, 4, 5, 8, 100)] == pytest.approx([0.1, 0.4, 0.4, 0.4, 0.4])


def test_an_answer_takes_what_runs_what_waits_and_its_own_batch() -> None:
    estimates = Estimates()
    now = measured(estimates, *[1.0] * 4, rows=8)
    estimates.begin(8, now, others_wait=True)
    now += 0.25
    assert until_answer(estimates, now) == pytest.approx(MARGIN * (0.75 + 1))
    assert until_answer(estimates, now, ahead=7) == pytest.approx(MARGIN * (0.75 + 1))
    assert until_answer(estimates, now, ahead=8) == pytest.approx(MARGIN * (0.75 + 1 + 1))
    assert until_answer(estimates, now, ahead=23, rows=8) == pytest.approx(MARGIN * (0.75 + 3 + 1))


def test_instances_share_the_work() -> None:
    estimates = Estimates()
    now = measured(estimates, *[1.0] * 4, rows=8)
    estimates.begin(8, now, others_wait=True)
    now += 0.5
    estimates.begin(8, now, others_wait=True)
    waits = [until_answer(estimates, now, ahead=8 * batches, instances=2) for batches in range(4)]
    assert waits == pytest.approx([MARGIN * seconds for seconds in (0.5 + 1, 1 + 1, 1.5 + 1, 2 + 1)])
    assert until_answer(estimates, now, instances=1) == pytest.approx(MARGIN * (1 + 1)), "after two have become one, the later one counts"


def test_batches_that_are_never_full_are_reckoned_as_they_are() -> None:
    estimates = Estimates()
    now = measured(estimates, *[1.0] * 4, rows=4)
    for _ in range(30):
        estimates.end(estimates.begin(4, now, others_wait=True), now + 1)
        now += 1
    estimates.begin(4, now, others_wait=True)
    assert until_answer(estimates, now, ahead=8) == pytest.approx(MARGIN * (1 + 2 + 1))


def test_a_batch_that_is_overdue_is_given_as_long_again() -> None:
    estimates = Estimates()
    now = measured(estimates, *[0.5] * 4)
    estimates.begin(1, now, others_wait=False)
    assert until_answer(estimates, now + 5) == pytest.approx(MARGIN * (4.5 + 0.5))


def test_old_times_are_forgotten() -> None:
    estimates = Estimates()
    now = measured(estimates, 0.1, 0.3)
    assert estimates.seconds(1, now) == pytest.approx(0.3)
    assert estimates.seconds(1, now + FORGET_S) == pytest.approx(0.1), "the best of them is kept"


def test_a_version_that_has_become_faster_is_known_to_be_soon() -> None:
    estimates = Estimates()
    now = measured(estimates, *[2.0] * 20, rows=8)
    now = measured(estimates, *[2.0] * 20, now=now)
    now = measured(estimates, *[0.1] * IN_A_ROW, now=now)
    assert [estimates.seconds(rows, now) for rows in (1, 8)] == pytest.approx([0.1, 0.1])


def test_an_idle_model_refuses_only_what_it_never_managed() -> None:
    estimates = Estimates()
    now = measured(estimates, *[0.5] * (SURE - 1))
    assert until_answer(estimates, now) == 0, "it may have been an accident"
    now = measured(estimates, 0.4, now=now)
    assert until_answer(estimates, now) == pytest.approx(0.4)
    assert until_answer(estimates, now + PROBE_S) == 0, "now and then one is let through"


def test_waiting_is_in_vain_when_no_batch_was_ever_that_fast() -> None:
    estimates = Estimates()
    now = measured(estimates, *[0.5] * SURE)
    assert estimates.least_of_all(now) == pytest.approx(0.5)
    assert estimates.least_of_all(now + PROBE_S) == 0
