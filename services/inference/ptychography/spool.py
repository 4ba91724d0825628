"""The frames of a stream, as the source of a reconstruction: they arrive while it goes on."""

import asyncio
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tessera.blob_files import disk_errors
from tessera.errors import ResourceExhaustedError
from tessera.tasks.ptychography.validation import check_positions

FIRST_ROOM = 1024
"""Positions for which there is room at first; it doubles."""


class Spool:
    """The frames of a stream, kept in a file without a name, which is gone with this process; a `Source` and a context manager.

    Args:
        directory: Where the file lies; made if missing.
        most_bytes: Of all frames together, as FP32.

    Attributes:
        frames: That have arrived.
        size: N; 0 before the first frame.
        probe: None, a stream brings it with its plan.

    Raises:
        UnavailableError: The disk fails.
    """

    probe = None

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._positions = np.empty((FIRST_ROOM, 2))
        self._changed = asyncio.Event()
        self._ended = False
        self.frames = 0
        self.size = 0
        with disk_errors():
            directory.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed with the spool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    async def append(self, amplitudes: NDArray[np.float32], positions: NDArray[np.float64]) -> None:
        """Keep frames (k, N, N), checked and of the size of those before, and their positions (k, 2).

        Raises:
            ResourceExhaustedError: They are more than there may be, or the disk is full.
            UnavailableError: The disk fails.
        """
        frames = self.frames + len(amplitudes)
        if frames * amplitudes[0].nbytes > self._most_bytes:
            raise ResourceExhaustedError(
                f"the scan has more than {self._most_bytes:,} bytes as FP32, the most that this server takes of a stream; upload it and "
                "queue it instead",
                field="frames",
            )
        await asyncio.to_thread(self._write, amplitudes)
        while frames > len(self._positions):
            self._positions = np.concatenate([self._positions, np.empty_like(self._positions)])
        self._positions[self.frames : frames] = positions
        self.frames = frames
        self.size = amplitudes.shape[-1]
        self._changed.set()

    async def end(self) -> None:
        """Tell that no more frames come. Raises InvalidArgumentError if they make no scan: fewer than two, positions all equal, ..."""
        await asyncio.to_thread(check_positions, self.positions(0, self.frames), self.size, "frames")
        self._ended = True
        self._changed.set()

    async def wait(self, frames: int) -> int:
        """Return how many frames have arrived; see `Source`."""
        while self.frames <= frames and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        return self.frames

    def amplitudes(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return frames by their indices; see `Source`."""
        frames = np.empty((len(indices), self.size, self.size), np.float32)
        with disk_errors():
            for frame, index in zip(frames, indices.tolist(), strict=True):
                os.preadv(self._file.fileno(), [frame.data], index * frame.nbytes)
        return frames

    def positions(self, first: int, last: int) -> NDArray[np.float64]:
        """Return the positions of some frames; see `Source`."""
        return self._positions[first:last]

    def _write(self, amplitudes: NDArray[np.float32]) -> None:
        with disk_errors():
            left = np.ascontiguousarray(amplitudes).data.cast("B")
            while left:
                left = left[self._file.write(left) :]
