"""Tells a caller over the stream how far a reconstruction is, and at last what came out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np

from services.inference.ptychography.listener import Progress, See
from services.inference.ptychography.previews import preview
from services.inference.ptychography.result import Result
from tessera.api.inference.v1 import ptychography_pb2 as pb

PROGRESS_S = 1.0
"""Progress is told this often, and after every pass."""
PART_BYTES = 1 << 20
"""Of the result, in one message."""

Write = Callable[[pb.ReconstructResponse], Awaitable[None]]


class Teller:
    """A `Listener` that writes to a stream.

    Args:
        write: Sends one message; returns when the next can be sent, so a reader that is slow slows the reconstruction down.
        preview_s: Least time between two previews, seconds; 0: there are none.
    """

    def __init__(self, write: Write, preview_s: float) -> None:
        self._write = write
        self._one_at_a_time = asyncio.Lock()
        self._preview_s = preview_s
        self._preview_due = 0.0
        self._progress = Progress(0)
        self._told = Progress(0)
        self._told_at = 0.0

    async def progressed(self, progress: Progress, see: See) -> None:
        """Hear where it stands, and tell it if it is time."""
        self._progress = progress
        if progress.iteration > self._told.iteration or time.monotonic() >= self._told_at + PROGRESS_S:
            await self._tell(progress)
        anything = progress.frames_done > 0 or progress.iteration > 0
        if anything and self._preview_s > 0 and time.monotonic() >= self._preview_due:
            await self._send(pb.ReconstructResponse(preview=await asyncio.to_thread(lambda: preview(see(), progress))))
            self._preview_due = time.monotonic() + self._preview_s

    async def watch(self, frames: Callable[[], int]) -> None:
        """Tell how many frames have arrived, for ever, while nothing else is to be told."""
        while True:
            await asyncio.sleep(PROGRESS_S)
            progress = replace(self._progress, frames=max(frames(), self._progress.frames))
            if progress != self._told:
                await self._tell(progress)

    async def answer(self, result: Result) -> None:
        """Send the result, in parts."""
        last = replace(self._progress, frames=len(result.positions))
        if last != self._told:
            await self._tell(last)
        for name, array in (await asyncio.to_thread(result.tensors)).items():
            data = np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8)
            for first in range(0, max(1, len(data)), PART_BYTES):
                part = data[first : first + PART_BYTES].tobytes()
                message = pb.ReconstructionPart(name=name, shape=() if first else array.shape, data=part)
                await self._send(pb.ReconstructResponse(part=message))
        await self._send(
            pb.ReconstructResponse(
                result=pb.ReconstructionResult(
                    frames=len(result.positions),
                    iterations=result.iterations,
                    fourier_error=result.fourier_error,
                    corner=result.corner,
                    answered_by=result.answered_by,
                )
            )
        )

    async def _tell(self, progress: Progress) -> None:
        self._told, self._told_at = progress, time.monotonic()
        message = pb.ReconstructionProgress(
            frames=progress.frames,
            frames_done=progress.frames_done,
            iteration=progress.iteration,
            fourier_error=progress.fourier_error,
        )
        await self._send(pb.ReconstructResponse(progress=message))

    async def _send(self, response: pb.ReconstructResponse) -> None:
        async with self._one_at_a_time:
            await self._write(response)
