"""Tells positions whose axes are swapped, or of which one runs the other way, from those that fit the frames.

A few frames that lie together are reconstructed for a few passes (ePIE; Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009)), once with
each orientation of the positions. Frames that overlap agree only in the right one, so its Fourier error falls below the others'. Whether
that is more than chance is told frame by frame: the differences of their errors must be far from 0 against their own spread.

What cannot be told: both axes running the other way (the point reflection of object and probe, conjugated, gives the same counts; so the
better of both counts for each orientation), an object that looks the same from several sides, and counts so few that noise hides it.
docs/adr/0020 has the rates of errors.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError

_FRAMES, _SIZE, _PASSES, _WARM_UP = 64, 64, 8, 2
_SIGNIFICANCE = 5.0
"""Least mean of the differences, in its standard errors."""
_RATIO = 1.02
"""Least ratio of the Fourier errors."""
_CONVERGED = 0.1
"""Largest Fourier error of an orientation that explains the frames at all: with a wrong probe none does, and differences mean nothing."""
_PROBE_STEP = 0.5
_REACH = 4
"""Times N that frames of a cluster may be apart from its middle, whatever gaps the scan has: it bounds the canvas."""
_TINY = 1e-9
_GIVEN = "as they are"
_ORIENTATIONS = {
    _GIVEN: ((1.0, 0.0), (0.0, 1.0)),
    "swapped, (y, x) for (x, y)": ((0.0, 1.0), (1.0, 0.0)),
    "with one axis mirrored, (-x, y) for (x, y)": ((-1.0, 0.0), (0.0, 1.0)),
    "swapped and one mirrored, (-y, x) for (x, y)": ((0.0, -1.0), (1.0, 0.0)),
}
"""The orientations that frames can tell apart: matrices whose rows are the new axes in the old."""


def check_axes(amplitudes: NDArray[np.float32], positions: NDArray[np.float64], probe: NDArray[np.complex64], field: str = "scan") -> None:
    """Check that frames fit their positions better as they are than with swapped or mirrored axes, as far as one can tell.

    It takes about a second, however many frames there are.

    Args:
        amplitudes: (M, N, N), zero frequency in the centre, checked.
        positions: (M, 2), checked.
        probe: (modes, N, N), roughly as it was: without one, nothing can be told.
        field: Path of the request field of the scan, for errors.

    Raises:
        InvalidArgumentError: They fit significantly better in another orientation; the message names it.
    """
    cluster = _cluster(amplitudes, positions, probe)
    errors = {name: _fit(*cluster, np.array(matrix)) for name, matrix in _ORIENTATIONS.items()}
    given = errors[_GIVEN]
    better = {name: found.mean() for name, found in errors.items() if _significant(given, found)}
    if better:
        name = min(better, key=lambda each: better[each])
        message = (
            f"the frames fit the positions better {name}: the Fourier error of a short reconstruction is {better[name]:.3g} instead of "
            f"{given.mean():.3g}; positions are (x, y), x to the right (columns), y downwards (rows)"
        )
        raise InvalidArgumentError(message, field=f"{field}.positions")


def _significant(given: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Tell whether the errors of frames are lower than those given by more than chance (a paired t-test, and more)."""
    gain = given - other
    deviation = gain.std() / math.sqrt(len(gain))
    if other.mean() > _CONVERGED or given.mean() <= _RATIO * other.mean():
        return False
    return bool(gain.mean() > _SIGNIFICANCE * deviation)


def _fit(
    amplitudes: NDArray[np.float32], positions: NDArray[np.float64], probe: NDArray[np.complex64], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the Fourier error of each frame with positions in another orientation, or its point reflection, whichever is the better."""
    return min((_errors(amplitudes, sign * positions @ matrix.T, probe) for sign in (1, -1)), key=lambda errors: float(errors.mean()))


def _errors(amplitudes: NDArray[np.float32], positions: NDArray[np.float64], probe: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Return the Fourier error of each frame in a short reconstruction, the mean of its last passes."""
    size, count = amplitudes.shape[-1], len(amplitudes)
    corners = np.rint(positions - positions.min(axis=0)).astype(int)
    width, height = corners.max(axis=0) + size
    canvas = np.ones((height, width), np.complex64)
    power = float(np.sum(amplitudes**2, dtype=np.float64)) / count
    random = np.random.default_rng(0)
    errors = np.zeros(count)
    for number in range(_PASSES):
        for frame in random.permutation(count):
            x, y = corners[frame]
            patch = canvas[y : y + size, x : x + size]
            error, probe = _step(patch, probe, amplitudes[frame], improve_probe=number > 0)
            if number >= _WARM_UP:
                errors[frame] += error / power / (_PASSES - _WARM_UP)
    return errors


def _step(
    patch: NDArray[np.complex64], probe: NDArray[np.complex64], amplitude: NDArray[np.float32], *, improve_probe: bool
) -> tuple[float, NDArray[np.complex64]]:
    """Improve a patch in place by one frame, zero frequency at the corner; return the frame's residual before and the probe improved."""
    exit_waves = probe * patch
    waves = np.fft.fft2(exit_waves, norm="ortho")
    expected = np.sqrt(np.sum(np.abs(waves) ** 2, axis=0))
    change = np.fft.ifft2(waves * (amplitude / (expected + _TINY)), norm="ortho") - exit_waves
    improved = probe
    if improve_probe:
        improved = probe + _PROBE_STEP * np.conj(patch) * change / (np.max(np.abs(patch) ** 2) + _TINY)
    patch += np.sum(np.conj(probe) * change, axis=0) / (np.max(np.sum(np.abs(probe) ** 2, axis=0)) + _TINY)
    return float(np.sum((expected - amplitude) ** 2)), improved


def _cluster(
    amplitudes: NDArray[np.float32], positions: NDArray[np.float64], probe: NDArray[np.complex64]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.complex64]]:
    """Return some frames that lie together, of at most 64 x 64 pixels, zero frequency at the corner, and their positions and probe.

    Leaving out high frequencies makes the pixels of the object larger, and the field of view stays. The probe gets the frames' power.
    """
    size = amplitudes.shape[-1]
    middle_one = positions[np.argmin(_distances(positions, np.median(positions, axis=0)))]
    distances = _distances(positions, middle_one)
    chosen = np.argsort(distances, kind="stable")[:_FRAMES]
    chosen = chosen[distances[chosen] <= _REACH * size]
    part = min(size, _SIZE)
    middle = slice(size // 2 - part // 2, size // 2 + part // 2)
    frames = np.fft.ifftshift(amplitudes[chosen, middle, middle], axes=(-2, -1))
    waves = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=(-2, -1))), axes=(-2, -1))[:, middle, middle]
    small = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(waves, axes=(-2, -1))), axes=(-2, -1))
    small *= math.sqrt(np.sum(frames**2, dtype=np.float64) / len(chosen) / np.sum(np.abs(small) ** 2, dtype=np.float64))
    return frames, positions[chosen] * (part / size), small.astype(np.complex64)


def _distances(positions: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each position is from a point, pixels."""
    return np.asarray(np.hypot(*(positions - point).T))
