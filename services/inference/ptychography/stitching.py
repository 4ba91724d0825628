"""The way of a network: batches of frames through the model, and its patches onto a canvas, while further frames arrive."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.inference.ptychography.models import Model
from services.inference.ptychography.source import Source
from services.inference.ptychography.task import group_of
from services.inference.runtimes.runtime import Tensors
from tessera.tasks.ptychography.canvas import Canvas
from tessera.tasks.ptychography.grouping import group
from tessera.tasks.ptychography.normalisation import FRAMES, Normaliser
from tessera.tasks.ptychography.signatures import from_channels
from tessera.tensors import Array

BATCH_BYTES = 64 << 20
"""A batch of frames has no more bytes than this, unless one group has."""
GROUPED_AT_ONCE = 512
"""Neighbours are looked for among so many frames that follow each other, so that groups can be formed before the scan has ended."""

Told = Callable[[int], Awaitable[None]]
"""Hears how many frames the network has seen; the canvas has their patches then."""


class _Batch(NamedTuple):
    """Groups on their way: indices of frames (k, C), what the model makes of them, and the frames that it has seen after them."""

    groups: NDArray[np.int64]
    outputs: asyncio.Task[Tensors]
    seen: int


class Stitcher:
    """Sends the frames of a source through a network and puts its patches together.

    Args:
        network: The network.
        source: The frames; the first have arrived.
        canvas: Where patches go.
        max_rows: Most groups in a batch.
    """

    def __init__(self, network: Model, source: Source, canvas: Canvas, max_rows: int) -> None:
        self._network = network
        self._source = source
        self._canvas = canvas
        self._members = group_of(network.manifest)
        self._max_rows = max(1, min(max_rows, BATCH_BYTES // (4 * self._members * source.size**2)))

    async def run(self, told: Told) -> None:
        """Do all of it, until the source has no more frames.

        While the patches of one batch are put together the next ones are computed; they go onto the canvas in their order.

        Args:
            told: Called after each batch.

        Raises:
            InvalidArgumentError: There are fewer frames than a group has.
            TesseraError: See `Source.wait`, `Model.compute` and `Canvas.add`.
        """
        queue: asyncio.Queue[_Batch | None] = asyncio.Queue(1)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send(queue, tasks))
                while batch := await queue.get():
                    outputs = await batch.outputs
                    await asyncio.to_thread(self._add, batch.groups, outputs["patches"])
                    await told(batch.seen)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _send(self, queue: asyncio.Queue[_Batch | None], tasks: asyncio.TaskGroup) -> None:
        """Begin a batch as soon as there are frames for it and those before are under way."""
        known = np.arange(min(FRAMES, await self._source.wait(FRAMES - 1)))
        normaliser = Normaliser.fit(await asyncio.to_thread(self._source.amplitudes, known))
        seen, at_once = 0, 1 if self._members == 1 else GROUPED_AT_ONCE
        while (frames := await self._source.wait(seen + at_once - 1)) > seen:
            groups = await asyncio.to_thread(self._groups, seen, frames)
            for first in range(0, len(groups), self._max_rows):
                chosen = groups[first : first + self._max_rows]
                inputs = await asyncio.to_thread(self._inputs, normaliser, chosen)
                outputs = tasks.create_task(self._network.compute(inputs))
                await queue.put(_Batch(chosen, outputs, seen + first + len(chosen)))
            seen += len(groups)
        await queue.put(None)

    def _groups(self, seen: int, frames: int) -> NDArray[np.int64]:
        """Return a group for each frame from `seen` to before `frames`, or to as many as are grouped at once."""
        last = min(frames, seen + GROUPED_AT_ONCE)
        self._canvas.trail.record("scan", self._source.positions(seen, last))
        first = max(0, min(seen, last - self._members))  # what is left at the end takes neighbours from before
        return group(self._source.positions(first, last), self._members)[seen - first :] + first

    def _inputs(self, normaliser: Normaliser, groups: NDArray[np.int64]) -> Tensors:
        amplitudes = normaliser.apply(self._source.amplitudes(groups.ravel()))
        return {"amplitudes": amplitudes.reshape(*groups.shape, *amplitudes.shape[1:])}

    def _add(self, groups: NDArray[np.int64], patches: Array) -> None:
        """Put the patches (k, C, 2, N, N) of some groups onto the canvas."""
        indices = groups.ravel()
        first = int(indices.min())
        positions = self._source.positions(first, int(indices.max()) + 1)[indices - first]
        self._canvas.add(from_channels(patches).reshape(-1, *patches.shape[-2:]), positions)
