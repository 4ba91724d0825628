"""Whoever waits for a turn gets it, however quick the others are."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tessera.errors import UnavailableError
from tessera.turns import Turns
from tests.fixtures.waiting import WAIT_S, blocking_until


def test_turns_are_taken_one_at_a_time_in_the_order_of_coming() -> None:
    turns, taken = Turns(), []

    def take(number: int) -> None:
        with turns.turn(WAIT_S):
            taken.append(number)

    with ThreadPoolExecutor(5) as threads:
        with turns.turn(WAIT_S):
            for number in range(5):
                threads.submit(take, number)
                blocking_until(lambda number=number: len(turns._waiting) == number + 1)  # type: ignore[misc]
            assert taken == []
        with turns.turn(WAIT_S):
            assert taken == [0, 1, 2, 3, 4], "who comes again comes last"


def test_who_waits_too_long_is_told_and_holds_up_nobody() -> None:
    turns = Turns()
    with ThreadPoolExecutor(2) as threads, turns.turn(WAIT_S):
        with pytest.raises(UnavailableError, match=r"more than 0\.01 seconds"), turns.turn(0.01):
            raise AssertionError("somebody else has it")
        entered = threading.Event()

        def take() -> None:
            with turns.turn(WAIT_S):
                entered.set()

        threads.submit(take)
        blocking_until(lambda: turns._waiting)
        assert not entered.is_set()
    assert entered.is_set()


def test_an_error_within_a_turn_ends_it() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.turn(WAIT_S):
        raise KeyError
    with turns.turn(0):
        pass
