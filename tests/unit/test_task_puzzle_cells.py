"""The puzzle_cells task: cutting, preprocessing and postprocessing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.errors import InvalidArgumentError, TesseraError
from tessera.tasks import puzzle_cells as task


@given(st.integers(1, 12), st.integers(2, 9), st.integers(0, 40), st.integers(0, 40))
def test_pieces_lie_row_by_row_and_make_the_picture_again(columns: int, rows: int, more_width: int, more_height: int) -> None:
    size = (columns * 4 + more_width, rows * 4 + more_height)
    picture = Image.effect_noise(size, 90).convert("RGB")
    pieces = task.cut(picture, columns, rows)
    lines = [np.hstack([np.asarray(piece) for piece in pieces[row * columns : (row + 1) * columns]]) for row in range(rows)]
    assert np.array_equal(np.vstack(lines), np.asarray(picture))


@pytest.mark.parametrize(("columns", "rows"), [(0, 5), (5, 0), (-1, -4), (1, 1), (101, 100)])
def test_impossible_grids_are_refused(columns: int, rows: int) -> None:
    with pytest.raises(InvalidArgumentError, match="2 to 10000 cells") as caught:
        task.signature(columns, rows)
    assert caught.value.field == "grid"


def test_a_picture_too_small_for_its_grid_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="too small for 38 x 25"):
        task.cut(Image.new("RGB", (151, 400)), 38, 25)


@pytest.mark.parametrize("size", [(4, 4), (13, 21), (64, 64), (500, 30)])
def test_a_piece_of_any_size_becomes_the_same_tensor_shape(size: tuple[int, int]) -> None:
    tensor = task.preprocess(Image.new("RGB", size, (255, 51, 0)))
    assert (tensor.shape, tensor.dtype, tensor.flags.c_contiguous) == ((3, 64, 64), np.float32, True)
    assert np.allclose(tensor[:, 10, 10], [1, 0.2, 0])


def test_an_array_of_a_piece_means_the_same_as_its_picture() -> None:
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    array = np.asarray(image, dtype=np.float32) / np.float32(255)
    assert np.array_equal(task.preprocess_tensor(array), task.preprocess(image))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((64, 64, 4), np.float32), "shape"),
        (np.zeros((3, 64, 64), np.float32), "shape"),
        (np.zeros((64, 64), np.float32), "shape"),
        (np.zeros((64, 64, 3), np.uint8), "element type uint8"),
        (np.full((64, 64, 3), np.nan, np.float32), "NaN"),
        (np.full((64, 64, 3), np.inf, np.float32), "NaN or infinity"),
        (np.full((64, 64, 3), 255, np.float32), "0 to 1 is needed"),
        (np.full((64, 64, 3), -0.1, np.float32), "0 to 1 is needed"),
    ],
)
def test_arrays_that_are_no_piece_are_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as caught:
        task.preprocess_tensor(array, field="piece.tensor")
    assert caught.value.field == "piece.tensor"


def test_the_best_cells_come_first_with_their_places() -> None:
    logits = np.zeros(12, dtype=np.float32)
    logits[7], logits[2] = 5, 3
    candidates, probabilities = task.postprocess(logits, 4, 3, 2)
    assert [(c.index, c.column, c.row, c.x, c.y) for c in candidates] == [(7, 3, 1, 0.875, 0.5), (2, 2, 0, 0.625, 1 / 6)]
    assert candidates[0].probability == pytest.approx(float(probabilities[7]))


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=12, max_size=12))
def test_probabilities_sum_to_one_whatever_the_logits(values: list[float]) -> None:
    candidates, probabilities = task.postprocess(np.array(values, np.float32), 4, 3, 12)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert [c.probability for c in candidates] == sorted((c.probability for c in candidates), reverse=True)
    assert sorted(c.index for c in candidates) == list(range(12))


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=12, max_size=12), st.integers(1, 12))
def test_of_equals_the_lower_index_comes_first(values: list[float], top_k: int) -> None:
    candidates, _ = task.postprocess(np.array(values, np.float32), 4, 3, top_k)
    assert [c.index for c in candidates] == sorted(range(12), key=lambda index: (-values[index], index))[:top_k]


@pytest.mark.parametrize(("cells", "count"), [((4, 3), 5), ((2, 1), 2)])
def test_five_candidates_are_answered_unless_the_grid_is_smaller(cells: tuple[int, int], count: int) -> None:
    assert len(task.postprocess(np.zeros(cells[0] * cells[1], np.float32), *cells)[0]) == count


@pytest.mark.parametrize("top_k", [-1, 13])
def test_a_top_k_out_of_range_is_refused(top_k: int) -> None:
    with pytest.raises(InvalidArgumentError, match="1 to 12") as caught:
        task.postprocess(np.zeros(12, np.float32), 4, 3, top_k)
    assert caught.value.field == "top_k"


@pytest.mark.parametrize("logits", [np.zeros(11, np.float32), np.full(12, np.nan, np.float32)])
def test_a_broken_model_is_no_fault_of_the_caller(logits: np.ndarray) -> None:
    with pytest.raises(TesseraError) as caught:
        task.postprocess(logits, 4, 3)
    assert caught.value.code == "INTERNAL"
