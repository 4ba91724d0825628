"""The way of an engine: passes over a scan that is complete, each step computed as a call is, and the Fourier error of what came out."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from services.inference.ptychography.models import Model
from services.inference.ptychography.plan import Plan
from services.inference.ptychography.source import Source
from services.inference.ptychography.task import batch_of
from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.iterating import Arrays, Estimate, Options, iterate
from tessera.tasks.ptychography.physics import error_of, fourier_error

MEASURED_AT_ONCE = 64
"""Frames whose model is computed at a time."""
MOST_WAVES = 1 << 26
"""Pixels of the exit waves of one step, all frames and modes together; each takes an engine some 100 bytes."""

Told = Callable[[int, float], Awaitable[None]]
"""Hears the number of a pass, 0 before the first, and its Fourier error."""


async def refine(engine: Model, estimate: Estimate, source: Source, plan: Plan, told: Told) -> None:
    """Improve an estimate in place, until the plan says that it is enough.

    Args:
        engine: The engine.
        estimate: What is known.
        source: The frames, complete.
        plan: How often, and what is improved.
        told: Called before the first pass, and after each.

    Raises:
        InvalidArgumentError: One step would have more than `MOST_WAVES`.
        TesseraError: See `Model.compute` and `iterate`.
    """
    batch = min(plan.batch or batch_of(engine.manifest), len(estimate.corners))
    if batch * estimate.probe.size > MOST_WAVES:
        modes, size, _ = estimate.probe.shape
        message = f"{batch} frames at a time, with {modes} modes of {size} x {size} pixels, are more than {MOST_WAVES:,} pixels; take fewer"
        raise InvalidArgumentError(message, field="plan.batch")
    options = Options(
        iterations=plan.iterations,
        target=plan.target_fourier_error,
        batch=batch,
        seed=plan.seed,
        fixed_probe=plan.fixed_probe,
        correct_positions=plan.correct_positions,
    )

    async def frames(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return await asyncio.to_thread(source.amplitudes, indices)

    async def step(inputs: Arrays) -> Arrays:
        return dict(await engine.compute(inputs))

    number = 0
    async for error in iterate(estimate, frames, step, options):
        await told(number, error)
        number += 1


async def measure(estimate: Estimate, source: Source) -> float:
    """Return the Fourier error of an estimate over all frames of a source, computed here."""
    residual = power = 0.0
    for first in range(0, len(estimate.corners), MEASURED_AT_ONCE):
        chunk_residual, chunk_power = await asyncio.to_thread(_measure, estimate, source, first)
        residual, power = residual + chunk_residual, power + chunk_power
    return error_of(residual, power)


def _measure(estimate: Estimate, source: Source, first: int) -> tuple[float, float]:
    corners = estimate.corners[first : first + MEASURED_AT_ONCE]
    amplitudes = source.amplitudes(np.arange(first, first + len(corners)))
    power = float(np.square(amplitudes, dtype=np.float64).sum())
    return fourier_error(estimate.object, estimate.probe, amplitudes, corners) * power, power
