"""Iterating an engine over a scan: where the frames lie in the object, in which order they are taken, and when to stop.

An engine's graph is one step (see `signatures.engine_signature`). What is computed by whom is not known here: a step may be a network call
away, so the loop awaits it; its caller can give up between two steps, and look at the estimate, or draw it, between two passes.

Array names: M frames, b frames of a step.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.physics import error_of, fitting_scale
from tessera.tasks.ptychography.signatures import from_channels, to_channels
from tessera.tasks.ptychography.validation import check_span

Arrays = dict[str, NDArray[Any]]
Step = Callable[[Arrays], Awaitable[Arrays]]
"""Computes an engine's outputs from its inputs, by name."""
Frames = Callable[[NDArray[np.int64]], Awaitable[NDArray[np.float32]]]
"""Gives the amplitudes (b, N, N) of the frames with these indices."""

_MARGIN = 8
"""Pixels around the outermost patches: room for positions that move."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller chooses.

    Attributes:
        iterations: Most passes over the scan, 0 or more.
        target: Stop as soon as the Fourier error is at most this.
        batch: Most frames of a step, 1 or more.
        seed: Of the order of the frames, of 64 bits.
        fixed_probe: Leave the probe as it is.
        correct_positions: Improve the positions too.
    """

    iterations: int = 50
    target: float = 0.0
    batch: int = 64
    seed: int = 0
    fixed_probe: bool = False
    correct_positions: bool = False

    @property
    def steps(self) -> tuple[float, float, float]:
        """Step lengths of object, probe and positions."""
        return 1.0, float(not self.fixed_probe), float(self.correct_positions)


@dataclass(slots=True)
class Estimate:
    """What is known of a scan so far; passes replace its arrays and never write into them.

    Attributes:
        object: complex64, (rows, columns).
        probe: complex64, (modes, N, N).
        corners: float64, (M, 2), (x, y) of the patches' upper left pixels in `object`.
        origin: (x, y) of the object's upper left pixel, in the coordinates of the positions.
        errors: Fourier errors: of what it began with, then of every pass, each frame measured just before its own step.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    corners: NDArray[np.float64]
    origin: NDArray[np.float64]
    errors: list[float]

    @classmethod
    def begin(
        cls,
        positions: NDArray[np.float64],
        probe: NDArray[np.complex64],
        sample: NDArray[np.float32],
        *,
        known: NDArray[np.complex64] | None = None,
        weight: NDArray[np.float32] | None = None,
        corner: tuple[float, float] = (0.0, 0.0),
    ) -> Self:
        """Return what an engine begins with; the probe is scaled so that it fits the frames.

        Args:
            positions: (M, 2), pixels.
            probe: (modes, N, N).
            sample: (k, N, N), amplitudes of the first k frames, which fix the probe's scale; some dozens are enough.
            known: (rows, columns), an object to go on from; without one it is 1 everywhere.
            weight: Of the same shape; where it is 0, `known` is not known.
            corner: (x, y) of the upper left pixel of `known`, in the coordinates of the positions.

        Raises:
            InvalidArgumentError: Probe and frames differ in size, the positions span more than an object may, or there is no light at all.
        """
        size = probe.shape[-1]
        if sample.shape[-2:] != probe.shape[-2:]:
            message = f"the probe has {probe.shape[-2]} x {probe.shape[-1]} pixels; the frames have {sample.shape[-2]} x {sample.shape[-1]}"
            raise InvalidArgumentError(message, field="probe")
        check_span(positions, size)
        # The grid of the object is that of what is known, so that nothing has to be interpolated.
        upper_left = positions.min(axis=0) - size // 2 - _MARGIN
        origin = np.floor(upper_left - np.asarray(corner)) + np.asarray(corner)
        corners = positions - size // 2 - origin
        columns, rows = (math.ceil(extent) + size + 2 + _MARGIN for extent in corners.max(axis=0))
        obj = np.ones((rows, columns), np.complex64)
        if known is not None:
            obj = _pasted(known, weight, np.rint(np.asarray(corner) - origin).astype(int), (rows, columns))
        scale = fitting_scale(obj, probe, sample, corners[: len(sample)])
        return cls(obj, (probe * scale).astype(np.complex64), corners, origin, [])

    @property
    def positions(self) -> NDArray[np.float64]:
        """The (x, y) of every frame, (M, 2), as improved."""
        return np.asarray(self.corners + self.origin + self.probe.shape[-1] // 2)


async def iterate(estimate: Estimate, frames: Frames, step: Step, options: Options) -> AsyncIterator[float]:
    """Improve an estimate in place; yield its Fourier error, at first of what it begins with, then of every pass.

    Raises:
        InvalidArgumentError: No frame has any counts.
        TesseraError: Whatever `frames` and `step` raise.
    """
    everything = np.arange(len(estimate.corners))
    estimate.errors = [await _go_over(estimate, everything, frames, step, batch=options.batch, lengths=(0.0, 0.0, 0.0))]
    yield estimate.errors[-1]
    while len(estimate.errors) <= options.iterations and estimate.errors[-1] > options.target:
        seed = options.seed % 2**64  # numpy takes none below 0
        order = np.random.default_rng((seed, len(estimate.errors))).permutation(len(estimate.corners))
        estimate.errors.append(await _go_over(estimate, order, frames, step, batch=options.batch, lengths=options.steps))
        yield estimate.errors[-1]


def iterate_here(
    estimate: Estimate,
    amplitudes: NDArray[np.float32],
    compute: Callable[[Arrays], Arrays],
    options: Options,
    *,
    told: Callable[[float], None] = lambda error: None,
) -> list[float]:
    """Improve an estimate in place with frames in memory (M, N, N) and a step in this process.

    Returns:
        The Fourier errors that `iterate` yields; `told` hears of each at once.
    """

    async def frames(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return amplitudes[indices]

    async def step(inputs: Arrays) -> Arrays:
        return compute(inputs)

    async def run() -> list[float]:
        async for error in iterate(estimate, frames, step, options):
            told(error)
        return estimate.errors

    return asyncio.run(run())


async def _go_over(
    estimate: Estimate, order: NDArray[np.int64], frames: Frames, step: Step, *, batch: int, lengths: tuple[float, float, float]
) -> float:
    """Take all frames once, in the given order, with steps of the given lengths; return the Fourier error that they had on the way."""
    residual = power = 0.0
    corners = estimate.corners.copy()
    # Between two steps they stay as the engine has them: to convert a large object takes longer than an event loop may stand still.
    obj, probe = (await asyncio.to_thread(to_channels, estimate.object))[None], to_channels(estimate.probe)[None]
    for indices in np.array_split(order, math.ceil(len(order) / batch)):
        outputs = await step(
            {
                "object": obj,
                "probe": probe,
                "amplitudes": (await frames(indices))[None],
                "corners": corners[indices].astype(np.float32)[None],
                "steps": np.array([lengths], np.float32),
            }
        )
        if any(lengths):
            obj, probe = outputs["new_object"], outputs["new_probe"]
        if lengths[2]:
            corners[indices] = outputs["new_corners"][0]
        residual += float(outputs["residuals"].sum(dtype=np.float64))
        power += float(outputs["powers"].sum(dtype=np.float64))
    if any(lengths):
        estimate.object = await asyncio.to_thread(from_channels, obj[0])
        estimate.probe, estimate.corners = from_channels(probe[0]), corners
    return error_of(residual, power)


def _pasted(
    known: NDArray[np.complex64], weight: NDArray[np.float32] | None, place: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """Return an object of a shape with `known` at (x, y) `place`, cut where it does not fit; what is not known gets the mean."""
    seen = np.ones(known.shape, bool) if weight is None else weight > 0
    mean = known[seen].mean() if seen.any() else 1.0
    amplitude = np.abs(known[seen]).mean() if seen.any() else 1.0
    pasted = np.full(shape, amplitude * np.exp(1j * np.angle(mean)), np.complex64)
    (left, top), (rows, columns) = place, shape
    inside = np.s_[max(top, 0) : max(top + known.shape[0], 0), max(left, 0) : max(left + known.shape[1], 0)]
    rest = np.s_[max(-top, 0) : max(rows - top, 0), max(-left, 0) : max(columns - left, 0)]
    pasted[inside] = np.where(seen[rest], known[rest], pasted[inside])
    return pasted
