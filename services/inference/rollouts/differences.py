"""How far the answers of two versions to the same request lie apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference.runtimes.runtime import Tensors
from tessera.errors import FailedPreconditionError

ALIKE = 0.01
"""What two fields, such as pictures, may differ by and still say the same, relative to the greatest absolute value."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference in one output of one request.

    Args:
        output: Its name.
        rows: Rows of the request.
        agreeing: Rows that say the same. Of scores (two axes): their greatest value stands in the same place. Of fields (more axes): no
            value differs by more than `ALIKE` of the row's greatest absolute value. Of one value a row, or of text: they are equal.
        max_abs: Greatest absolute difference of two values; infinite where one of them is not a number; None for text.
        relative: The same, divided by the greatest absolute value of the stable version's output; None for text.
    """

    output: str
    rows: int
    agreeing: int
    max_abs: float | None
    relative: float | None


def compare(stable: Tensors, candidate: Tensors) -> list[Difference]:
    """Return the difference in every output.

    Args:
        stable: Outputs of the stable version, rows as the first axis.
        candidate: Outputs of the version on trial.

    Raises:
        FailedPreconditionError: The outputs have other names or shapes.
    """
    shapes, others = ({name: array.shape for name, array in tensors.items()} for tensors in (stable, candidate))
    if shapes != others:
        raise FailedPreconditionError(f"the stable version answered {shapes}, the candidate {others}")
    return [_difference(name, array, candidate[name]) for name, array in stable.items()]


def _difference(name: str, stable: NDArray[Any], candidate: NDArray[Any]) -> Difference:
    rows = len(stable)
    if stable.dtype.kind in "OSU" or candidate.dtype.kind in "OSU":
        return Difference(name, rows, int((stable == candidate).reshape(rows, -1).all(axis=1).sum()), None, None)
    ours, theirs = (array.astype(np.float64).reshape(rows, -1) for array in (stable, candidate))
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.nan_to_num(np.abs(ours - theirs), nan=np.inf, posinf=np.inf))
    if stable.ndim > 2:
        agreeing = apart.max(axis=1) <= ALIKE * np.abs(np.nan_to_num(ours, posinf=0.0, neginf=0.0)).max(axis=1)
    else:
        agreeing = same.all(axis=1) if ours.shape[1] < 2 else ours.argmax(axis=1) == theirs.argmax(axis=1)
    max_abs = float(apart.max(initial=0.0))
    greatest = float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0))
    relative = max_abs / greatest if greatest else (np.inf if max_abs else 0.0)
    return Difference(name, rows, int(agreeing.sum()), max_abs, float(relative))
