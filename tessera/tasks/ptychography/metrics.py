"""How good a reconstruction is: against a truth, or against one from the other half of the scan. docs/adr/0025 defines and explains."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.alignment import LEAST_SIDE, Complex, find_shift, match_scale, remove_plane, shift, trim

HALF = 0.5
"""Threshold of FRC50."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """A Fourier ring correlation: how alike two images are, by spatial frequency.

    Attributes:
        frequencies: float64, (rings,), cycles per pixel, above 0 to 0.5 (Nyquist).
        values: float64, (rings,), -1 to 1; 1 is alike.
        half_bit: float64, (rings,), the threshold at which a ring holds half a bit of information a pixel.
    """

    frequencies: NDArray[np.float64]
    values: NDArray[np.float64]
    half_bit: NDArray[np.float64]

    @property
    def frc50(self) -> float:
        """First frequency at which the correlation falls below 0.5, cycles per pixel; 0.5 if it never does."""
        return self._crossing(np.full_like(self.values, HALF))

    @property
    def frc_half_bit(self) -> float:
        """First frequency at which the correlation falls below the 1/2-bit threshold, cycles per pixel; 0.5 if it never does."""
        return self._crossing(self.half_bit)

    def _crossing(self, threshold: NDArray[np.float64]) -> float:
        above = self.values - threshold
        below = np.flatnonzero(above < 0)
        if not below.size:
            return 0.5
        ring = int(below[0])
        if ring == 0:
            return 0.0
        share = above[ring - 1] / (above[ring - 1] - above[ring])
        return float(self.frequencies[ring - 1] + share * (self.frequencies[ring] - self.frequencies[ring - 1]))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A reconstruction against the truth, after alignment.

    Attributes:
        amplitude_mae: Mean absolute difference of the amplitudes.
        amplitude_psnr: dB, peak = the truth's largest amplitude.
        amplitude_ssim: At most 1, range = the truth's.
        phase_mae: Mean absolute difference of the phases, radians.
        phase_psnr: dB, peak = the range of the truth's phase.
        phase_ssim: At most 1, range = the truth's.
        correlation: FRC of the complex images.
    """

    amplitude_mae: float
    amplitude_psnr: float
    amplitude_ssim: float
    phase_mae: float
    phase_psnr: float
    phase_ssim: float
    correlation: Correlation

    def figures(self) -> dict[str, float]:
        """Return all numbers by name, with `frc50` and `frc_half_bit`."""
        names = ("amplitude_mae", "amplitude_psnr", "amplitude_ssim", "phase_mae", "phase_psnr", "phase_ssim")
        figures = {name: getattr(self, name) for name in names}
        return figures | {"frc50": self.correlation.frc50, "frc_half_bit": self.correlation.frc_half_bit}


def compare(array: Complex, truth: Complex, *, border: int = 0, registered: bool = False) -> Comparison:
    """Measure a reconstruction against the truth.

    Args:
        array: Complex, (rows, columns); `alignment.scanned` cuts both to the pixels that were scanned.
        truth: Of the same shape.
        border: Pixels to leave away at each side after all alignment, for example half the overlap of neighbouring frames.
        registered: Whether a translation between both is an error of the reconstruction; else it is removed first, since a probe that is
            improved may move, and the object with it.

    Raises:
        InvalidArgumentError: Not two finite complex images of the same shape of at least 16 x 16 pixels, or the truth is empty.
    """
    array, truth = aligned(array, truth, border=border, registered=registered)
    amplitude, phase = np.abs(truth), np.angle(truth)
    return Comparison(
        *_figures(np.abs(array), amplitude, peak=float(amplitude.max())),
        *_figures(phase + np.angle(array * truth.conj()), phase, peak=float(np.ptp(phase))),
        correlation=correlate(array, truth),
    )


def aligned(
    array: Complex, truth: Complex, *, border: int = 0, registered: bool = False
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return both without their planes of phase, the array moved onto the truth and scaled to its mean amplitude; see `compare`."""
    _check(array, "object")
    _check(truth, "truth")
    if array.shape != truth.shape:
        raise InvalidArgumentError(f"object is {array.shape}, truth {truth.shape}: must be equal", field="object")
    if not np.abs(truth).any():
        raise InvalidArgumentError("truth is zero everywhere", field="truth")
    array, truth = remove_plane(array), remove_plane(truth)
    if not registered:
        x, y = find_shift(array, truth)
        margin = int(np.ceil(max(abs(x), abs(y))))
        if (x, y) != (0.0, 0.0) and min(array.shape) - 2 * max(margin, border) >= LEAST_SIDE:
            array, border = shift(array, x, y), max(margin, border)
    array, truth = remove_plane(trim(array, border)), remove_plane(trim(truth, border))
    return match_scale(array, truth), truth


def correlate(first: Complex, second: Complex) -> Correlation:
    """Return the Fourier ring correlation of two images of the same shape (Saxton and Baumeister 1982).

    FRC(ring) = Re(sum F1 F2*) / sqrt(sum |F1|^2 sum |F2|^2) over the pixels of a ring, one pixel of the shorter side's spectrum wide. Means
    are removed and sides fade to zero (Hann), since what is cut off there would be alike in both. The 1/2-bit threshold is that of van
    Heel and Schatz (2005) for n pixels a ring: (0.2071 + 1.9102 / sqrt n) / (1.2071 + 0.9102 / sqrt n).

    Raises:
        InvalidArgumentError: Not two finite images of the same shape of at least 16 x 16 pixels.
    """
    _check(first, "first")
    _check(second, "second")
    if first.shape != second.shape:
        raise InvalidArgumentError(f"first is {first.shape}, second {second.shape}: must be equal", field="second")
    window = np.outer(np.hanning(first.shape[0]), np.hanning(first.shape[1]))
    one, two = (np.fft.fft2((image - image.mean()) * window) for image in (first, second))
    radius = np.hypot(np.fft.fftfreq(first.shape[0])[:, None], np.fft.fftfreq(first.shape[1])[None, :])
    rings = min(first.shape) // 2
    ring = np.rint(radius * 2 * rings).astype(int).ravel()

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(ring, values.ravel(), rings + 1)[1 : rings + 1].astype(np.float64)

    powers = sums(np.abs(one) ** 2) * sums(np.abs(two) ** 2)
    values = sums((one * two.conj()).real) / np.sqrt(np.maximum(powers, np.finfo(np.float64).tiny))
    root = np.sqrt(np.bincount(ring, minlength=rings + 1)[1 : rings + 1])
    half_bit = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    return Correlation(np.arange(1, rings + 1) / (2 * rings), values, half_bit)


def halves(frames: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of two halves of a scan, drawn at random, for a resolution without a truth: `correlate_halves` of what both give.

    Raises:
        InvalidArgumentError: Fewer than 4 frames.
    """
    if frames < 4:
        raise InvalidArgumentError(f"frames is {frames}, must be at least 4 to reconstruct two halves", field="frames")
    order = np.random.default_rng(seed).permutation(frames)
    return np.sort(order[: frames // 2]), np.sort(order[frames // 2 :])


def correlate_halves(first: Complex, second: Complex) -> Correlation:
    """Return the FRC of what two halves of a scan gave, cut to the same pixels before, aligned here; judge it by `frc_half_bit`."""
    return correlate(*aligned(first, second))


def _figures(values: NDArray[np.floating], truth: NDArray[np.floating], *, peak: float) -> tuple[float, float, float]:
    """Return MAE, PSNR with the peak given, SSIM (Wang et al. 2004, Gaussian window) with the truth's range."""
    from skimage.metrics import structural_similarity

    squared = float(np.mean((values - truth) ** 2))
    tiny = np.finfo(np.float64).tiny
    psnr = 10 * (np.log10(max(peak**2, tiny)) - np.log10(max(squared, tiny)))  # their quotient may be too large for a float
    # A flat truth has no range of its own; then a difference of 1 counts fully.
    ssim = structural_similarity(  # type: ignore[no-untyped-call]
        truth, values, data_range=float(np.ptp(truth)) or 1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(np.mean(np.abs(values - truth))), float(psnr), float(ssim)


def _check(image: Complex, field: str) -> None:
    if image.ndim != 2 or min(image.shape) < LEAST_SIDE:
        message = f"{field} has shape {image.shape}, must be (rows, columns) of at least {LEAST_SIDE} x {LEAST_SIDE}"
        raise InvalidArgumentError(message, field=field)
    if not np.isfinite(image).all():
        raise InvalidArgumentError(f"{field} has values that are not finite", field=field)
