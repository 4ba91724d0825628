"""A scan in a file, as the source of a reconstruction: it is all there from the beginning."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tessera.tasks.ptychography.centring import check_centred
from tessera.tasks.ptychography.files.stored import ScanReader
from tessera.tasks.ptychography.validation import check_amplitudes_not_counts, check_frames

CHECKED_BYTES = 32 << 20
"""Of the frames no more are in memory at a time while they are checked, unless one is larger."""


class StoredScan:
    """A `Source` over a file in our own form; a context manager. Construct it in a thread: that reads the positions.

    Args:
        path: The file, which must not change meanwhile.
        field: Path of the request field that named it, for errors.

    Raises:
        InvalidArgumentError: See `ScanReader`.
    """

    def __init__(self, path: Path, field: str = "scan") -> None:
        self._reader = ScanReader(path, field)
        self._field = field
        self._checked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.__exit__(kind, error, trace)

    @property
    def size(self) -> int:
        """N, the pixels of a frame's side."""
        return self._reader.size

    @property
    def probe(self) -> NDArray[np.complex64] | None:
        """The scan's own probe, (modes, N, N); None if it has none."""
        return self._reader.probe

    async def wait(self, frames: int) -> int:
        """Return how many frames there are. The first call reads them all; InvalidArgumentError if one is not fit."""
        if not self._checked:
            await asyncio.to_thread(self._check)
            self._checked = True
        return self._reader.frames

    def amplitudes(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return frames by their indices: (k, N, N)."""
        return np.concatenate([self._reader.amplitudes(index, index + 1) for index in indices.tolist()])

    def positions(self, first: int, last: int) -> NDArray[np.float64]:
        """Return the (x, y) of the frames from `first` to before `last`: (k, 2), pixels."""
        return self._reader.positions[first:last]

    def _check(self) -> None:
        field = f"{self._field}.amplitudes"
        step = max(1, CHECKED_BYTES // (4 * self.size**2))
        for first in range(0, self._reader.frames, step):
            part = self._reader.amplitudes(first, first + step)
            check_frames(part, field, first=first)
            if first == 0:
                check_amplitudes_not_counts(part, field)
                check_centred(part, field)
