"""How far the answers of two versions lie apart."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.inference.rollouts.differences import Difference, compare
from tessera.errors import FailedPreconditionError


def difference(stable: Any, candidate: Any, dtype: Any = np.float32) -> Difference:
    found = compare({"y": np.array(stable, dtype)}, {"y": np.array(candidate, dtype)})
    assert len(found) == 1
    return found[0]


def test_equal_answers_do_not_differ() -> None:
    assert difference([[1, 5, 2], [0, 0, 3]], [[1, 5, 2], [0, 0, 3]]) == Difference("y", 2, 2, 0.0, 0.0)


def test_the_greatest_difference_and_the_rows_that_agree_are_told() -> None:
    assert difference([[1, 4, 2], [0, 1, 3], [8, 0, 0]], [[1, 3.5, 2], [3, 1, 0], [8, 0, 0]]) == Difference("y", 3, 2, 3.0, 3 / 8)


def test_fields_agree_where_no_value_differs_by_more_than_a_hundredth_of_the_greatest() -> None:
    stable = np.zeros((3, 3, 4))
    stable[0, 2, 1] = stable[1, 0, 3] = 1
    candidate = stable.copy()
    candidate[0, 0, 0] = 0.005  # of 1
    candidate[1, 1, 1] = 0.5  # the greatest is where it was, but the picture is another
    assert difference(stable, candidate) == Difference("y", 3, 2, 0.5, 0.5)


def test_a_field_with_infinity_agrees_with_itself_alone() -> None:
    stable = np.full((2, 2, 2), np.inf)
    candidate = stable.copy()
    candidate[1, 0, 0] = 0
    assert difference(stable, candidate).agreeing == 1


@pytest.mark.parametrize(
    ("stable", "candidate", "dtype", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], np.float64, Difference("y", 2, 1, 0.5, 0.25)),
        ([[True], [False]], [[True], [True]], np.bool_, Difference("y", 2, 1, 1.0, 1.0)),
        ([[0, 200]], [[255, 200]], np.uint8, Difference("y", 1, 0, 255.0, 255 / 200)),
        ([[1.0, 2.0]], [[1.0, 2.5]], np.float16, Difference("y", 1, 1, 0.5, 0.25)),
        ([[b"a", b"b"], [b"c", b"d"]], [[b"a", b"b"], [b"c", b"x"]], np.object_, Difference("y", 2, 1, None, None)),
        ([["a"], ["b"]], [["a"], ["b"]], np.str_, Difference("y", 2, 2, None, None)),
    ],
)
def test_every_type_of_output_is_compared(stable: Any, candidate: Any, dtype: Any, expected: Difference) -> None:
    assert difference(stable, candidate, dtype) == expected


@pytest.mark.parametrize(
    ("stable", "candidate", "greatest"),
    [
        ([[math.nan, 1.0]], [[math.nan, 1.0]], 0.0),
        ([[math.inf, 1.0]], [[math.inf, 1.0]], 0.0),
        ([[1.0, 1.0]], [[math.nan, 1.0]], math.inf),
        ([[1.0, 1.0]], [[math.inf, 1.0]], math.inf),
        ([[math.inf, 1.0]], [[-math.inf, 1.0]], math.inf),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0),
    ],
)
def test_what_is_no_number_differs_without_end_unless_both_have_it(stable: Any, candidate: Any, greatest: float) -> None:
    found = difference(stable, candidate)
    assert (found.max_abs, found.relative) == (greatest, greatest)


def test_every_output_is_told_by_its_name() -> None:
    ours: dict[str, NDArray[Any]] = {"a": np.zeros((1, 2)), "b": np.ones((1, 2))}
    assert [(one.output, one.max_abs) for one in compare(ours, {"a": np.ones((1, 2)), "b": np.ones((1, 2))})] == [("a", 1.0), ("b", 0.0)]


@pytest.mark.parametrize("candidate", [{}, {"y": np.zeros((1, 3))}, {"z": np.zeros((1, 2))}])
def test_answers_of_another_shape_cannot_be_compared(candidate: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(FailedPreconditionError, match="the stable version answered"):
        compare({"y": np.zeros((1, 2))}, candidate)
