"""Where the frames of a reconstruction come from."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Source(Protocol):
    """The frames of a scan, on a disk; some of them may still be on their way.

    Its methods but `wait` read the disk: call them in a thread.
    """

    @property
    def size(self) -> int:
        """N, the pixels of a frame's side; known once `wait` has returned 1 or more."""

    @property
    def probe(self) -> NDArray[np.complex64] | None:
        """The scan's own probe, (modes, N, N); None if it has none."""

    async def wait(self, frames: int) -> int:
        """Return how many frames there are, as soon as there are more than `frames`, or no more come.

        Raises:
            TesseraError: What came is not fit, or the stream broke.
        """

    def amplitudes(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return frames by their indices: (k, N, N), >= 0, zero frequency in the centre."""

    def positions(self, first: int, last: int) -> NDArray[np.float64]:
        """Return the (x, y) of the frames from `first` to before `last`: (k, 2), pixels."""
