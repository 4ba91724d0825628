"""Who is told how far a reconstruction is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Progress:
    """Where a reconstruction stands.

    Attributes:
        frames: That have arrived.
        frames_done: That the network has seen; 0 without a network.
        iteration: Passes of the engine; 0 before the first.
        fourier_error: Of that pass; 0 before the first.
    """

    frames: int
    frames_done: int = 0
    iteration: int = 0
    fourier_error: float = 0.0


See = Callable[[], NDArray[np.complex64]]
"""Returns the object as it stands, (rows, columns); takes time in proportion to its size."""


class Listener(Protocol):
    """Is told how far a reconstruction is."""

    async def progressed(self, progress: Progress, see: See) -> None:
        """Hear where it stands, after every batch of the network and every pass of the engine; it goes on when this returns.

        `see` may be called, in a thread, until then.

        Raises:
            TesseraError: Nobody wants to know any more; it is given up.
        """
