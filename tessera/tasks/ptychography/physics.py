"""The forward model of the package's docstring in numpy, and the Fourier error: what networks and engines are measured with.

A patch at a fractional corner is read by bilinear interpolation, here as in the engines.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError

_CHUNK = 64
"""Frames computed at a time: memory stays small however long a scan is."""


def far_field(waves: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    """Return what reaches the detector, FFT2 / N with zero frequency in the centre, of exit waves (..., N, N), of the same type."""
    return np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(-2, -1))


def read_patches(obj: NDArray[np.complexfloating], corners: NDArray[np.floating], size: int) -> NDArray[np.complexfloating]:
    """Return patches (b, size, size) of an object (rows, columns), bilinearly interpolated.

    Args:
        obj: The object.
        corners: (b, 2), (x, y) of the patches' upper left pixels in it, at least 0 and less than extent - size.
        size: Pixels of a patch's side.

    Raises:
        InvalidArgumentError: A patch reaches beyond the object.
    """
    whole = np.floor(corners).astype(np.int64)
    rows, columns = obj.shape
    if len(whole) and (whole.min() < 0 or (whole.max(axis=0) + size >= (columns, rows)).any()):
        message = f"patches of {size} pixels at {corners.min(axis=0)} to {corners.max(axis=0)} reach beyond {columns} x {rows} pixels"
        raise InvalidArgumentError(message, field="corners")
    x, y = (corners - whole).astype(obj.real.dtype).T[:, :, None, None]
    taps = np.arange(size + 1)
    wide = obj[whole[:, 1, None, None] + taps[:, None], whole[:, 0, None, None] + taps]
    across = wide[:, :, :-1] + x * (wide[:, :, 1:] - wide[:, :, :-1])
    return np.asarray(across[:, :-1] + y * (across[:, 1:] - across[:, :-1]))


def model_amplitudes(
    obj: NDArray[np.complexfloating], probe: NDArray[np.complexfloating], corners: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the amplitudes (b, N, N) that an object (rows, columns) and a probe (modes, N, N) give at corners (b, 2) in the object.

    Raises:
        InvalidArgumentError: A patch reaches beyond the object.
    """
    patches = read_patches(obj, corners, probe.shape[-1])
    intensities = sum(np.abs(far_field(mode * patches)) ** 2 for mode in probe)  # one mode at a time: a probe may have many
    return np.asarray(np.sqrt(intensities))


def fourier_error(
    obj: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    amplitudes: NDArray[np.float32],
    corners: NDArray[np.floating],
) -> float:
    """Return sum((|Psi| - amplitude)^2) / sum(amplitude^2) over all frames (M, N, N): 0 is a perfect fit, 1 is that of nothing at all.

    Raises:
        InvalidArgumentError: No frame has any counts, or a patch reaches beyond the object.
    """
    residual = power = 0.0
    for modelled, recorded in _both(obj, probe, amplitudes, corners):
        residual += float(((modelled - recorded) ** 2).sum(dtype=np.float64))
        power += float((recorded**2).sum(dtype=np.float64))
    return error_of(residual, power)


def illumination(probe: NDArray[np.complexfloating], corners: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return how much light fell on each pixel of an object of a shape (rows, columns): the sum of |probe|^2, to the nearest pixel.

    Args:
        probe: (modes, N, N).
        corners: (M, 2), (x, y) of the patches' upper left pixels in the object; every patch lies inside.
        shape: Of the object.
    """
    size = probe.shape[-1]
    light = (np.abs(probe) ** 2).sum(axis=0)
    total = np.zeros(shape, np.float32)
    for left, top in np.rint(corners).astype(int):
        total[top : top + size, left : left + size] += light
    return total


def error_of(residual: float, power: float) -> float:
    """Return the Fourier error of a scan from the sums of its frames.

    Raises:
        InvalidArgumentError: There is no count in any of them, or the numbers are too large for single precision.
    """
    if power <= 0:
        raise InvalidArgumentError("there is not a single count in any frame", field="amplitudes")
    if not math.isfinite(residual / power):
        message = f"the Fourier error is {residual:g} / {power:g}: frames, probe or object are too large for single precision; scale them"
        raise InvalidArgumentError(message, field="amplitudes")
    return residual / power


def fitting_scale(
    obj: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    amplitudes: NDArray[np.float32],
    corners: NDArray[np.floating],
) -> float:
    """Return the factor by which the probe has to be multiplied so that the model fits frames (M, N, N) best, in least squares.

    Raises:
        InvalidArgumentError: Probe, object or frames are zero everywhere, or too large, or a patch reaches beyond the object.
    """
    product = power = 0.0
    for modelled, recorded in _both(obj, probe, amplitudes, corners):
        product += float((modelled * recorded).sum(dtype=np.float64))
        power += float((modelled**2).sum(dtype=np.float64))
    if not (product > 0 and 0 < product / power < math.inf):
        raise InvalidArgumentError("the probe, or every frame, is zero everywhere, or too large for single precision", field="probe")
    return product / power


def _both(
    obj: NDArray[np.complexfloating], probe: NDArray[np.complexfloating], amplitudes: NDArray[np.float32], corners: NDArray[np.floating]
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.float32]]]:
    """Yield the amplitudes that the model gives and those recorded, some frames at a time."""
    for first in range(0, len(amplitudes), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        yield model_amplitudes(obj, probe, corners[chunk]), amplitudes[chunk]
