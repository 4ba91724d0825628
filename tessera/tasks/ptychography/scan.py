"""A scan in memory, in the one form that the package's docstring describes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scan:
    """Diffraction patterns and where they were recorded.

    Attributes:
        amplitudes: float32, (M, N, N), >= 0, zero frequency in the centre.
        positions: float64, (M, 2), centres of the patches as (x, y), pixels; where there is a truth, pixels of its array.
        probe: complex64, (modes, N, N), or None if it is not known.
        truth: complex64, (rows, columns), the object, or None if it is not known.
    """

    amplitudes: NDArray[np.float32]
    positions: NDArray[np.float64]
    probe: NDArray[np.complex64] | None = None
    truth: NDArray[np.complex64] | None = None

    def __len__(self) -> int:
        """Return M, the number of frames."""
        return len(self.amplitudes)

    @property
    def size(self) -> int:
        """Return N, the pixels of a frame's side."""
        return int(self.amplitudes.shape[-1])
