"""What comes out of a reconstruction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.tasks.ptychography.signatures import to_channels
from tessera.tensors import Array


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        object: complex64, (rows, columns).
        weight: float32, (rows, columns), 0 where no patch reaches.
        probe: complex64, (modes, N, N); None if it is not known.
        positions: float64, (frames, 2), as the engine improved them.
        errors: float32, (1 + passes,), Fourier errors, see `ReconstructionPart` in the API; empty without a probe.
        corner: The (x, y) of the object's upper left pixel, in the coordinates of the positions.
        iterations: Passes of the engine.
        answered_by: Which versions, the network before the engine.
    """

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]
    probe: NDArray[np.complex64] | None
    positions: NDArray[np.float64]
    errors: NDArray[np.float32]
    corner: tuple[float, float]
    iterations: int
    answered_by: list[AnsweredBy]

    @property
    def fourier_error(self) -> float | None:
        """The last of the errors; None where there is no probe."""
        return float(self.errors[-1]) if len(self.errors) else None

    def tensors(self) -> dict[str, Array]:
        """Return the tensors that `ReconstructionPart` names, all float32 and of one dimension or more."""
        tensors: dict[str, Array] = {
            "amplitude": np.abs(self.object),
            "phase": np.angle(self.object),
            "weight": np.ascontiguousarray(self.weight),
            "positions": self.positions.astype(np.float32),
            "errors": self.errors,
        }
        if self.probe is not None:
            tensors["probe"] = to_channels(self.probe)
        return tensors
