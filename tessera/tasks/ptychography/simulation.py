"""Scans that were never recorded: an object from a picture, a beam, positions, and the counts that a detector would have seen."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.physics import model_amplitudes, read_patches
from tessera.tasks.ptychography.scan import Scan

Layout = Literal["raster", "fermat", "random"]

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_MARGIN = 2
_GRAIN = 2.0
"""Of the diffuser: standard deviation of what smoothes it, pixels."""
_BATCH = 64
"""Frames that are computed at a time: memory stays small however many there are."""


def object_from_picture(image: Image.Image, rows: int, columns: int, *, contrast: float = 0.6, phase: float = 1.5) -> NDArray[np.complex64]:
    """Return an object that looks like a picture.

    Its amplitude is the picture; its phase is the picture turned by 180 degrees, so that a reconstruction that takes one for the other, or
    turns the object around, is seen at once.

    Args:
        image: Of any mode and size; it is resized.
        rows: Of the object, pixels.
        columns: Of the object, pixels.
        contrast: Amplitudes lie between 1 - contrast and 1; 0 to 1.
        phase: Phases lie between -phase / 2 and phase / 2, radians.

    Returns:
        The object, (rows, columns).
    """
    grey = np.asarray(image.convert("L").resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    amplitude = 1 - contrast * (1 - grey)
    angle = phase * (grey[::-1, ::-1] - 0.5)
    return np.asarray(amplitude * np.exp(1j * angle), np.complex64)


def beam(size: int, *, diameter: float = 0.4, curvature: float = 4.0, diffuser: float = 0.0) -> NDArray[np.complex64]:
    """Return a probe: a round beam with soft edges that diverges, perhaps behind a diffuser.

    Args:
        size: N, pixels.
        diameter: Of the beam at half its amplitude, as a part of N.
        curvature: Phase at the beam's edge against its centre, radians; it spreads the diffraction pattern over more pixels.
        diffuser: Standard deviation of the phase of a diffuser with grains of some pixels, radians, always the same; 0: there is none. It
            makes a frame by itself say much more of the object.

    Returns:
        (1, N, N), of power sum |P|^2 = 1.
    """
    axis = np.arange(size) - size // 2
    squared = (axis[:, None] ** 2 + axis[None, :] ** 2) / (diameter * size / 2) ** 2
    probe = np.exp(-math.log(2) * squared**2 + 1j * curvature * squared)
    if diffuser:
        probe *= np.exp(1j * diffuser * _grains(size))
    return np.asarray(probe / np.linalg.norm(probe), np.complex64)[None]


def _grains(size: int) -> NDArray[np.float64]:
    """Return smooth noise, (N, N), of mean 0 and standard deviation 1, that always is the same."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(0).normal(size=(size, size)), sigma=_GRAIN)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float64)


def simulate(
    truth: NDArray[np.complex64],
    *,
    size: int,
    frames: int,
    layout: Layout = "fermat",
    photons: float = 1e5,
    noise: bool = True,
    jitter: float = 0.5,
    position_error: float = 0.0,
    seed: int = 0,
    probe: NDArray[np.complex64] | None = None,
) -> Scan:
    """Return the scan that a detector would record of an object.

    The frames lie all over the object, so their number and its extents say how far apart they are. A patch between pixels is
    interpolated bilinearly, as in the models of this task.

    Args:
        truth: The object, (rows, columns), each at least `size` + 6.
        size: N, pixels.
        frames: M, 2 or more.
        layout: `raster` (rows of equal steps), `fermat` (spiral with the golden angle, stretched over the object), or `random` (uniform).
        photons: That fall on the object for each frame.
        noise: Counts are Poisson distributed about what is expected; if not, they are what is expected.
        jitter: Standard deviation by which positions stray from the layout, pixels; the scan knows of it.
        position_error: Standard deviation by which the scan's positions are wrong, pixels.
        seed: Of layout, jitter and noise; the same seed gives the same scan.
        probe: (modes, N, N) or (N, N); by default `beam(size)`. It is scaled to `photons`.

    Returns:
        The scan, with its probe and truth.

    Raises:
        InvalidArgumentError: Too few frames, an object or a probe of another size, or no photons.
    """
    rows, columns = truth.shape
    if min(rows, columns) < size + 3 * _MARGIN:
        raise InvalidArgumentError(f"an object of {columns} x {rows} pixels; {size + 3 * _MARGIN} or more are needed", field="truth")
    if frames < 2:
        raise InvalidArgumentError(f"{frames} frames; at least 2 are needed", field="frames")
    if not photons > 0:
        raise InvalidArgumentError(f"{photons:g} photons; more than 0 are needed", field="photons")
    modes = beam(size) if probe is None else probe.reshape(-1, *probe.shape[-2:])
    if modes.shape[1:] != (size, size):
        raise InvalidArgumentError(f"a probe of {modes.shape[-1]} x {modes.shape[-2]} pixels; the frames have {size}", field="probe")
    modes = (modes * math.sqrt(photons / np.sum(np.abs(modes) ** 2))).astype(np.complex64)
    random = np.random.default_rng(seed)
    low = size // 2 + _MARGIN
    extent = np.array([columns, rows]) - size - 2 * _MARGIN
    actual = low + _LAYOUTS[layout](frames, extent, random) * (extent - 1)
    actual = np.clip(actual + random.normal(0, 1, actual.shape) * jitter, low, low + extent - 1)
    amplitudes = np.empty((frames, size, size), np.float32)
    for first in range(0, frames, _BATCH):
        part = slice(first, min(first + _BATCH, frames))
        expected = model_amplitudes(truth, modes, actual[part] - size // 2) ** 2
        amplitudes[part] = np.sqrt(random.poisson(expected) if noise else expected)
    known = actual + random.normal(0, 1, actual.shape) * position_error
    return Scan(amplitudes, known, modes, truth.astype(np.complex64))


def patches_at(truth: NDArray[np.complexfloating], positions: NDArray[np.floating], size: int) -> NDArray[np.complexfloating]:
    """Return what lies about each position of an object, interpolated bilinearly.

    Args:
        truth: The object, (rows, columns).
        positions: Centres (x, y), pixels of it, (B, 2).
        size: N, of the patches.

    Returns:
        (B, N, N).

    Raises:
        InvalidArgumentError: A patch reaches beyond the object.
    """
    return read_patches(truth, positions - size // 2, size)


def _raster(frames: int, extent: NDArray[np.int_], random: np.random.Generator) -> NDArray[np.float64]:
    """Return M positions in the unit square on rows of equal steps; the last row may be shorter."""
    columns = max(1, round(math.sqrt(frames * extent[0] / extent[1])))
    rows = math.ceil(frames / columns)
    index = np.arange(frames)
    return np.stack([index % columns / max(columns - 1, 1), index // columns / max(rows - 1, 1)], axis=1)


def _fermat(frames: int, extent: NDArray[np.int_], random: np.random.Generator) -> NDArray[np.float64]:
    """Return M positions in the unit square on a spiral from its centre to its edge (Huang et al., Opt. Express 22, 12634 (2014))."""
    index = np.arange(frames)
    radius, angle = np.sqrt((index + 0.5) / frames), index * _GOLDEN_ANGLE
    return 0.5 + 0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _random(frames: int, extent: NDArray[np.int_], random: np.random.Generator) -> NDArray[np.float64]:
    """Return M positions in the unit square, each anywhere."""
    return random.random((frames, 2))


_LAYOUTS: dict[Layout, Callable[[int, NDArray[np.int_], np.random.Generator], NDArray[np.float64]]] = {
    "raster": _raster,
    "fermat": _fermat,
    "random": _random,
}
