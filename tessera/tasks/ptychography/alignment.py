"""Bring a reconstruction and a truth, or two reconstructions, onto the same pixels, phase and scale before they are compared.

A scan fixes its object only up to a factor, a phase ramp (the probe takes the opposite one) and a translation (the probe moves along), and
not at all where no frame was recorded. None of these is an error of a reconstruction, so each is removed first.
"""

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError

Complex = NDArray[np.complexfloating]
LEAST_SIDE = 16
"""Pixels of a side below which there is nothing to compare."""
LARGEST_SHIFT = 8.0
"""Pixels; two objects that seem further apart than this have nothing in common by which to shift them."""
FINENESS = 50
"""Shifts are found to a 50th of a pixel."""


def remove_plane(array: Complex) -> NDArray[np.complex128]:
    """Return a complex array (rows, columns) without the plane that fits its phase: c + x dx + y dy.

    The slopes begin at the peak of the spectrum, which neither wrapped phases nor sharp edges disturb; a least-squares plane through the
    phases that remain, every pixel weighted by its amplitude, does the rest. The mean phase is then near 0.
    """
    rows, columns = np.indices(array.shape)
    padded = tuple(4 * side for side in array.shape)  # a quarter of a bin is left at most, far from where phases wrap
    down, right = np.unravel_index(np.abs(np.fft.fft2(array, padded)).argmax(), padded)
    dy, dx = (2 * np.pi * np.fft.fftfreq(side)[peak] for side, peak in zip(padded, (down, right), strict=True))
    flat = array.astype(np.complex128) * np.exp(-1j * (dx * columns + dy * rows))
    flat *= np.exp(-1j * np.angle(flat.sum()))
    weight = np.sqrt(np.abs(flat)).ravel()
    planes = np.stack([np.ones(array.size), columns.ravel(), rows.ravel()], axis=1)
    fitted, *_ = np.linalg.lstsq(planes * weight[:, None], np.angle(flat).ravel() * weight, rcond=None)
    plane: NDArray[np.float64] = (planes @ fitted).reshape(array.shape)
    flattened: NDArray[np.complex128] = flat * np.exp(-1j * plane)
    return flattened


def match_scale(array: Complex, truth: Complex) -> NDArray[np.complex128]:
    """Return the array times the factor that gives it the truth's mean amplitude."""
    factor = float(np.abs(truth).mean() / max(np.abs(array).mean(), np.finfo(np.float32).tiny))
    return np.asarray(array, np.complex128) * factor


def find_shift(array: Complex, truth: Complex) -> tuple[float, float]:
    """Return by how many pixels (x, y) the array must move to lie on the truth; zeros if that is more than `LARGEST_SHIFT` or it is flat.

    Cross-correlation with sub-pixel refinement by matrix multiplication (Guizar-Sicairos, Thurman, Fienup 2008; scikit-image).
    """
    from skimage.registration import phase_cross_correlation

    if np.ptp(np.abs(array)) == np.ptp(np.angle(array)) == 0:
        return 0.0, 0.0
    (down, right), _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        _faded(truth), _faded(array), upsample_factor=FINENESS, normalization=None
    )
    return (float(right), float(down)) if max(abs(right), abs(down)) <= LARGEST_SHIFT else (0.0, 0.0)


def shift(array: Complex, x: float, y: float) -> NDArray[np.complex128]:
    """Return the array moved right by x and down by y pixels, by cubic splines; its border is repeated."""
    from scipy.ndimage import shift as move

    moved = [move(part.astype(np.float64), (y, x), order=3, mode="nearest") for part in (array.real, array.imag)]
    return moved[0] + 1j * moved[1]  # type: ignore[no-any-return]  # scipy is untyped


def field_of_view(positions: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the least and the greatest (x, y) of the rectangle where frames overlap on all sides.

    It is the one that the positions span, or as much smaller, about its centre, as it takes for 99 % of it to lie within one and a half
    mean distances of a position: a spiral leaves the corners of its rectangle dark.
    """
    from scipy.spatial import cKDTree

    centre, half = (positions.min(axis=0) + positions.max(axis=0)) / 2, np.ptp(positions, axis=0) / 2
    reach = 1.5 * np.sqrt(np.prod(2 * half + 1) / len(positions))
    near = cKDTree(positions)
    for share in np.linspace(1, 0.5, 26):
        grid = np.stack(np.meshgrid(*(np.linspace(-share, share, 40) for _ in "xy")), axis=-1) * half + centre
        if np.mean(near.query(grid)[0] <= reach) >= 0.99:
            break
    return centre - share * half, centre + share * half


def scanned(
    array: Complex, corner: tuple[float, float], positions: NDArray[np.floating], truth: Complex
) -> tuple[NDArray[np.complex128], Complex]:
    """Cut a reconstruction and its truth to the `field_of_view` of the positions.

    Args:
        array: The object, (rows, columns).
        corner: The (x, y) of its upper left pixel in the coordinates of the positions, perhaps between pixels.
        positions: (M, 2), (x, y), pixels of the truth.
        truth: (rows, columns).

    Raises:
        InvalidArgumentError: Less than 16 x 16 pixels are in all three.
    """
    sides = []
    least, greatest = field_of_view(positions)
    for axis in (0, 1):  # x, y; arrays have them the other way round
        first = max(least[axis], corner[axis], 0)
        last = min(greatest[axis], corner[axis] + array.shape[1 - axis] - 1, truth.shape[1 - axis] - 1)
        sides.append((int(np.ceil(first)), int(np.floor(last)) + 1))
    (left, right), (top, bottom) = sides
    if min(right - left, bottom - top) < LEAST_SIDE:
        raise InvalidArgumentError(
            f"the scanned rectangle that object and truth share is {max(right - left, 0)} x {max(bottom - top, 0)} pixels, must be at "
            f"least {LEAST_SIDE} x {LEAST_SIDE}: are the positions in pixels of the truth?",
            field="positions",
        )
    x, y = corner
    whole = int(np.floor(x)), int(np.floor(y))
    moved = shift(array, x - whole[0], y - whole[1]) if (x, y) != whole else array.astype(np.complex128)
    # Moved right by the fraction, the array's pixel 0 lies at the whole number below its corner.
    return moved[top - whole[1] : bottom - whole[1], left - whole[0] : right - whole[0]], truth[top:bottom, left:right]


def trim(array: Complex, border: int) -> Complex:
    """Return an array without `border` pixels at each side. Raises InvalidArgumentError if less than 16 x 16 remain."""
    if border < 0 or min(array.shape) - 2 * border < LEAST_SIDE:
        message = f"border is {border}, must be 0 or more and leave {LEAST_SIDE} x {LEAST_SIDE} of {array.shape} pixels"
        raise InvalidArgumentError(message, field="border")
    return array[border : array.shape[0] - border, border : array.shape[1] - border]


def _faded(array: Complex) -> Complex:
    """Return an array without its mean, falling to zero at its sides, so that what is cut off there does not count."""
    return (array - array.mean()) * np.outer(np.hanning(array.shape[0]), np.hanning(array.shape[1]))  # type: ignore[no-any-return]
