"""The scale of a network's input: brighter frames, or more photons, must not make another object.

The factor follows from the first frames of a scan alone, so a file that is there as a whole and a stream whose end nobody knows are scaled
alike.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError

FRAMES = 64
"""Frames, from the first, that fix the factor, and the scale of the probe that an engine begins with; all of them, if a scan has fewer."""


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Scales amplitudes such that a frame of the mean power has sum x^2 = (N / 2)^2.

    Attributes:
        factor: By which amplitudes are multiplied.
    """

    factor: float

    @classmethod
    def fit(cls, amplitudes: NDArray[np.floating], field: str = "amplitudes") -> Self:
        """Return the normaliser of a scan: sqrt((N / 2)^2 / <sum x^2>), the mean over its first `FRAMES` frames.

        Args:
            amplitudes: (M, N, N) of the scan, or at least of its first `FRAMES` frames; more are not looked at.
            field: Path of the request field that the frames came from, for errors.

        Raises:
            InvalidArgumentError: There is no count in any of them, or one is not finite.
        """
        first = amplitudes[:FRAMES]
        power = float(np.square(first, dtype=np.float64).sum(axis=(1, 2)).mean()) if len(first) else 0.0
        if not 0 < power < math.inf:
            raise InvalidArgumentError(
                f"the mean power of the first {len(first)} frames is {power:g}, must be finite and above 0", field=field
            )
        return cls(amplitudes.shape[-1] / 2 / math.sqrt(power))

    def apply(self, amplitudes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return amplitudes of any shape as a network takes them."""
        return (amplitudes * self.factor).astype(np.float32)
