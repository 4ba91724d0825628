"""Task "puzzle_cells": which cell of a known puzzle's grid a piece belongs to.

A puzzle is a picture with a grid of `columns` x `rows` cells, numbered row by row: index = row * columns + column. A model takes the
tensor `image` (FP32, batch x 3 x 64 x 64, RGB, values 0 to 1) and gives `logits` (FP32, batch x cells). What lies before and after the
model is written here once, for training and for serving.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.errors import InvalidArgumentError, TesseraError
from tessera.tasks.images import MIN_SIDE
from tessera.tensors import Array, Signature, TensorSpec, check_array, check_finite

NAME = "puzzle_cells"
"""Name of the task in manifests."""
REVISION = 1
"""Grows whenever the same picture would come out of `preprocess`, or the same logits out of `postprocess`, differently."""
PIECE_SIZE = 64
"""Width and height of a piece as the model sees it, pixels."""
MAX_CELLS = 10_000
"""Largest grid."""
DEFAULT_TOP_K = 5
"""Candidates answered if the caller does not say."""

_PIECE = TensorSpec("tensor", "FP32", (PIECE_SIZE, PIECE_SIZE, 3))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cell where a piece may belong.

    Attributes:
        column: 0 at the left.
        row: 0 at the top.
        index: row * columns + column.
        probability: 0 to 1.
        x: Centre of the cell, 0 (left) to 1 (right).
        y: Centre of the cell, 0 (top) to 1 (bottom).
    """

    column: int
    row: int
    index: int
    probability: float
    x: float
    y: float


def check_grid(columns: int, rows: int) -> None:
    """Raise InvalidArgumentError unless both are at least 1 and there are 2 to `MAX_CELLS` cells."""
    if columns < 1 or rows < 1 or not 2 <= columns * rows <= MAX_CELLS:
        raise InvalidArgumentError(f"a grid of {columns} x {rows}; 2 to {MAX_CELLS} cells are possible", field="grid")


def signature(columns: int, rows: int) -> Signature:
    """Return the tensors of a model for this grid; InvalidArgumentError if there is no such grid."""
    check_grid(columns, rows)
    return Signature(
        inputs=(TensorSpec("image", "FP32", (-1, 3, PIECE_SIZE, PIECE_SIZE)),),
        outputs=(TensorSpec("logits", "FP32", (-1, columns * rows)),),
    )


def cut(picture: Image.Image, columns: int, rows: int) -> list[Image.Image]:
    """Cut a picture into the pieces of a grid.

    Cells need not divide the picture: edges fall on the nearest whole pixel, so neighbours may differ by a pixel in size.

    Args:
        picture: Of mode RGB.
        columns: Cells from left to right.
        rows: Cells from top to bottom.

    Returns:
        The pieces in order of their index, in their natural size.

    Raises:
        InvalidArgumentError: No such grid, or cells smaller than `MIN_SIDE` pixels.
    """
    check_grid(columns, rows)
    width, height = picture.size
    if width < columns * MIN_SIDE or height < rows * MIN_SIDE:
        message = f"a picture of {width} x {height} pixels is too small for {columns} x {rows} cells of {MIN_SIDE} pixels or more"
        raise InvalidArgumentError(message, field="grid")
    x = [round(column * width / columns) for column in range(columns + 1)]
    y = [round(row * height / rows) for row in range(rows + 1)]
    return [picture.crop((x[column], y[row], x[column + 1], y[row + 1])) for row in range(rows) for column in range(columns)]


def preprocess(image: Image.Image) -> NDArray[np.float32]:
    """Return an RGB picture of a piece, whatever its size, as model input of shape (3, 64, 64) with values 0 to 1."""
    resized = image.resize((PIECE_SIZE, PIECE_SIZE), Image.Resampling.BILINEAR)
    values: NDArray[np.float32] = np.divide(np.asarray(resized).transpose(2, 0, 1), np.float32(255), order="C")
    return values


def preprocess_tensor(array: Array, *, field: str = "tensor") -> NDArray[np.float32]:
    """Return a piece that came as an array (64 rows, 64 columns, RGB) as model input of shape (3, 64, 64).

    Raises:
        InvalidArgumentError: Not FP32 of shape (64, 64, 3), NaN or infinity, or values outside 0 to 1.
    """
    check_array(array, _PIECE, field)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # NaN is not either
        check_finite(array, field)
        raise InvalidArgumentError(f"values from {low:g} to {high:g}; 0 to 1 is needed (divide 8-bit pixels by 255)", field=field)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def check_top_k(top_k: int, columns: int, rows: int) -> int:
    """Return how many candidates to answer: `top_k`, or for 0 `DEFAULT_TOP_K` or all cells of a small grid; else InvalidArgumentError."""
    cells = columns * rows
    if top_k == 0:
        return min(DEFAULT_TOP_K, cells)
    if not 1 <= top_k <= cells:
        raise InvalidArgumentError(f"top_k is {top_k}; 1 to {cells}, the number of cells, is possible (0: the default)", field="top_k")
    return top_k


def postprocess(logits: Array, columns: int, rows: int, top_k: int = 0) -> tuple[list[Candidate], NDArray[np.float32]]:
    """Turn one row of model output into an answer.

    Args:
        logits: Shape (columns * rows,).
        columns: Of the grid.
        rows: Of the grid.
        top_k: Candidates to answer, 1 to the number of cells; 0 means 5, or all cells of a smaller grid.

    Returns:
        The candidates, best first (of equals, the lower index first), and the probabilities of all cells, float32, shape
        (columns * rows,), summing to 1.

    Raises:
        InvalidArgumentError: `top_k` out of range.
        TesseraError: The model gave NaN, infinity or another number of cells.
    """
    top_k = check_top_k(top_k, columns, rows)
    if logits.shape != (columns * rows,) or not np.isfinite(logits).all():
        raise TesseraError(f"the model gave logits of shape {list(logits.shape)}, or NaN or infinity; {columns * rows} numbers are needed")
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponentials / exponentials.sum()
    candidates = [
        Candidate(
            column=index % columns,
            row=index // columns,
            index=index,
            probability=float(probabilities[index]),
            x=(index % columns + 0.5) / columns,
            y=(index // columns + 0.5) / rows,
        )
        for index in _best(probabilities, top_k)
    ]
    return candidates, probabilities.astype(np.float32)


def _best(probabilities: NDArray[np.float64], top_k: int) -> list[int]:
    """Return the indices of the `top_k` largest, largest first, of equals the lower index first; sorts only these, not all cells."""
    least = np.partition(probabilities, -top_k)[-top_k]
    chosen = np.flatnonzero(probabilities >= least)
    order = np.argsort(-probabilities[chosen], kind="stable")[:top_k]
    best: list[int] = chosen[order].tolist()
    return best
