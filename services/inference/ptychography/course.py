"""The course of one reconstruction: the network while frames arrive, then the engine."""

import asyncio

import numpy as np
from numpy.typing import NDArray

from services.inference.ptychography.listener import Listener, Progress
from services.inference.ptychography.models import Model
from services.inference.ptychography.plan import Plan
from services.inference.ptychography.refining import measure, refine
from services.inference.ptychography.result import Result
from services.inference.ptychography.source import Source
from services.inference.ptychography.stitching import Stitcher
from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.canvas import Canvas
from tessera.tasks.ptychography.iterating import Estimate
from tessera.tasks.ptychography.normalisation import FRAMES
from tessera.tasks.ptychography.physics import illumination
from tessera.tasks.ptychography.reassembly import probe_weights
from tessera.tasks.ptychography.validation import check_probe, check_span


class Course:
    """One reconstruction on its way.

    Args:
        plan: What to do.
        source: The frames; the first have arrived.
        listener: Is told how far it is.
        network: Begins; None if the engine does.
        engine: Goes on; None if the network's answer is all.

    Raises:
        InvalidArgumentError: A model is for frames of another size, or the probe is missing or of another one.
    """

    def __init__(self, plan: Plan, source: Source, listener: Listener, network: Model | None, engine: Model | None) -> None:
        self._plan = plan
        self._source = source
        self._listener = listener
        self._network = network
        self._engine = engine
        self._models = [model for model in (network, engine) if model]
        for model in self._models:
            model.require_size(source.size)
        self._probe = _probe(plan, source, network)
        if engine and self._probe is None:
            raise InvalidArgumentError("an engine needs a probe: send one, or store it beside the scan", field="plan.probe")
        self._frames = 0

    async def run(self, max_rows: int) -> Result:
        """Go it to its end, with at most so many groups in a batch of the network."""
        canvas = await self._stitch(self._network, max_rows) if self._network else None
        await self._gather()
        if self._probe is None:
            assert canvas, "without a probe there is a network"
            return await self._stitched(canvas, None, [])
        estimate = await asyncio.to_thread(self._estimate, self._probe, canvas)
        if self._engine:
            return await self._refined(self._engine, estimate)
        assert canvas, "without an engine there is a network"
        return await self._stitched(canvas, estimate.probe, [await measure(estimate, self._source)])

    async def _stitch(self, network: Model, max_rows: int) -> Canvas:
        """Let the network see all frames; return what its patches make."""
        canvas = self._canvas()

        async def told(seen: int) -> None:
            self._frames = seen
            arrived = await self._source.wait(seen - 1)
            await self._listener.progressed(Progress(arrived, seen), canvas.object)

        await Stitcher(network, self._source, canvas, max_rows).run(told)
        await asyncio.to_thread(canvas.check_not_collapsed)
        return canvas

    def _canvas(self) -> Canvas:
        size, weighted = self._source.size, self._plan.weighted
        if weighted and self._probe is None:
            raise InvalidArgumentError("patches cannot be weighted by the probe: there is none", field="plan.weighting")
        if self._plan.crop > size:
            raise InvalidArgumentError(f"the crop is {self._plan.crop} pixels; a frame has {size}", field="plan.crop")
        weights = None if self._probe is None or weighted is False else probe_weights(self._probe)
        return Canvas(size, self._plan.crop or size // 2, weights, coherent=True)

    async def _gather(self) -> None:
        """Wait for all frames that no network has waited for."""
        extremes = np.empty((0, 2))  # of all positions so far: to look at each again and again would take ever longer
        while (frames := await self._source.wait(self._frames)) > self._frames:
            arrived = np.concatenate([extremes, self._source.positions(self._frames, frames)])
            check_span(arrived, self._source.size, "frames.positions")
            extremes = np.stack([arrived.min(axis=0), arrived.max(axis=0)])
            self._frames = frames
            await self._listener.progressed(Progress(frames), _nothing)

    def _estimate(self, probe: NDArray[np.complex64], canvas: Canvas | None) -> Estimate:
        """Return what is known before the engine begins."""
        positions = self._source.positions(0, self._frames)
        sample = self._source.amplitudes(np.arange(min(FRAMES, self._frames)))
        if canvas is None:
            return Estimate.begin(positions, probe, sample)
        return Estimate.begin(positions, probe, sample, known=canvas.object(), weight=canvas.weight, corner=canvas.corner)

    async def _refined(self, engine: Model, estimate: Estimate) -> Result:
        """Return what the engine makes of an estimate."""

        async def told(number: int, error: float) -> None:
            seen = self._frames if self._network else 0
            await self._listener.progressed(Progress(self._frames, seen, number, error), lambda: estimate.object)

        await refine(engine, estimate, self._source, self._plan, told)
        return Result(
            object=estimate.object,
            weight=await asyncio.to_thread(illumination, estimate.probe, estimate.corners, estimate.object.shape),
            probe=estimate.probe,
            positions=estimate.positions,
            errors=np.asarray(estimate.errors, np.float32),
            corner=(float(estimate.origin[0]), float(estimate.origin[1])),
            iterations=len(estimate.errors) - 1,
            answered_by=[model.answered_by for model in self._models],
        )

    async def _stitched(self, canvas: Canvas, probe: NDArray[np.complex64] | None, errors: list[float]) -> Result:
        """Return what a network found."""
        return Result(
            object=await asyncio.to_thread(canvas.object),
            weight=canvas.weight,
            probe=probe,
            positions=self._source.positions(0, self._frames),
            errors=np.asarray(errors, np.float32),
            corner=canvas.corner,
            iterations=0,
            answered_by=[model.answered_by for model in self._models],
        )


def _probe(plan: Plan, source: Source, network: Model | None) -> NDArray[np.complex64] | None:
    """Return the probe to work with: that of the plan, else of the scan, else of the network."""
    for probe, field in ((plan.probe, "plan"), (source.probe, "scan"), (network.probe if network else None, "plan.model")):
        if probe is not None:
            check_probe(probe, source.size, field)
            return probe
    return None


def _nothing() -> NDArray[np.complex64]:
    """Return the object while nothing is known of it: one pixel of vacuum."""
    return np.ones((1, 1), np.complex64)
