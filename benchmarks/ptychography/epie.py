"""A plain ePIE in numpy, one frame after the other and whole pixels: what the engines of the platform are compared with.

A. Maiden, J. Rodenburg: An improved ptychographical phase retrieval algorithm for diffractive imaging, Ultramicroscopy 109, 1256 (2009).
The power of the probe is kept, or object and probe run away from each other after some thirty passes.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tessera.tasks.ptychography.iterating import Estimate
from tessera.tasks.ptychography.physics import error_of, fourier_error

STEP = 0.5
"""Length of both steps."""


def epie(estimate: Estimate, amplitudes: NDArray[np.float32], *, most: int, target: float, seed: int = 0) -> list[float]:
    """Improve an estimate in place, of which the first mode of the probe counts.

    Args:
        estimate: What to begin with.
        amplitudes: (M, N, N), zero frequency in the centre.
        most: Passes at most.
        target: Fourier error that is enough.
        seed: Of the order of the frames.

    Returns:
        Fourier errors: of what it began with, and of every pass, each frame measured just before its own step.
    """
    size = amplitudes.shape[-1]
    corners = np.rint(estimate.corners).astype(int)
    recorded = fft.ifftshift(amplitudes, axes=(-2, -1))
    obj, probe = estimate.object.copy(), estimate.probe[0].copy()
    power, probe_norm = float(np.square(recorded, dtype=np.float64).sum()), np.linalg.norm(probe)
    errors = [fourier_error(obj, probe[None], amplitudes, corners)]
    random = np.random.default_rng(seed)
    while len(errors) <= most and errors[-1] > target:
        residual = 0.0
        for index in random.permutation(len(recorded)):
            x, y = corners[index]
            patch = obj[y : y + size, x : x + size]
            before = patch.copy()
            far = fft.fft2(probe * before, norm="ortho")
            found = np.abs(far)
            missing = recorded[index] - found
            residual += float(np.vdot(missing, missing))
            change = STEP * fft.ifft2(far * (missing / np.maximum(found, 1e-12)), norm="ortho")
            patch += probe.conj() * change / np.square(np.abs(probe)).max()
            probe += before.conj() * change / np.square(np.abs(before)).max()
            probe *= probe_norm / np.linalg.norm(probe)
        errors.append(error_of(residual, power))
    estimate.object, estimate.probe = obj, probe[None]
    return errors
