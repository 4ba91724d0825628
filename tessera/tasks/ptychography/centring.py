"""Tells frames whose zero frequency is at the corner, as an FFT leaves it, from those that have it in the centre.

A diffraction pattern is brightest about zero frequency. The circular mean of its marginals says where that is even if the pattern runs
over the edge: the phase of sum(w_k exp(2 pi i k / N)) is the place, its length how sharp the place is (Mardia & Jupp, Directional
Statistics, 2.2). Amplitudes serve better than counts, of which one hot pixel can hold most. docs/adr/0020 has the rates of errors.
"""

import numpy as np

from tessera.errors import InvalidArgumentError
from tessera.tensors import Array

_SHIFTED = 3 / 8
"""Parts of N that the brightest place is off the centre where the zero frequency is at the edge; 1/2 were there no beamstops."""
_SHARP = 0.05
"""Resultant length below which frames are too even to tell."""
_SAMPLES = 64
_AXES = ("rows", "columns")


def check_centred(amplitudes: Array, field: str = "scan.amplitudes") -> None:
    """Check that frames (k, N, N) have zero frequency in the centre, as far as one can tell.

    Raises:
        InvalidArgumentError: It is at the corner, or at an edge: only one axis was shifted.
    """
    off = _off_centre(amplitudes)
    shifted = [name for name, part in zip(_AXES, off, strict=True) if part > _SHIFTED]
    if len(shifted) == len(_AXES):
        message = (
            "zero frequency is at the corner of the frames, as an FFT leaves it; it must be in the centre: apply fftshift to both axes"
        )
        raise InvalidArgumentError(message, field=field)
    if shifted:
        message = f"zero frequency is at the edge of the {shifted[0]}: only one axis was shifted; apply fftshift to the {shifted[0]} too"
        raise InvalidArgumentError(message, field=field)


def check_corner(counts: Array, field: str = "scan.counts") -> None:
    """Check that counts (k, N, N) have zero frequency at the corner, as far as one can tell; InvalidArgumentError if they have not."""
    amplitudes = np.sqrt(counts[_chosen(len(counts))], dtype=np.float32)
    if any(part > _SHIFTED for part in _off_centre(np.fft.fftshift(amplitudes, axes=(-2, -1)))):
        message = (
            "zero frequency is in the centre of the frames, or only one axis is shifted; this layout has it at the corner: apply ifftshift"
        )
        raise InvalidArgumentError(message, field=field)


def _off_centre(amplitudes: Array) -> tuple[float, float]:
    """Return how far the brightest row and column are off the centre, 0 to 1/2 of N; 0 where one cannot tell."""
    size = amplitudes.shape[-1]
    mean = amplitudes[_chosen(len(amplitudes))].mean(axis=0, dtype=np.float64)
    turns = np.exp(2j * np.pi * (np.arange(size) - size // 2) / size)
    off = []
    for marginal in (mean.sum(axis=1), mean.sum(axis=0)):
        resultant = np.sum(marginal * turns) / np.sum(marginal)
        off.append(abs(float(np.angle(resultant))) / (2 * np.pi) if abs(resultant) >= _SHARP else 0.0)
    return off[0], off[1]


def _chosen(count: int) -> "np.ndarray[tuple[int], np.dtype[np.int_]]":
    """Return the numbers of at most 64 of the frames, evenly from first to last."""
    return np.linspace(0, count - 1, min(count, _SAMPLES)).astype(int)
