"""What is done to patches on their way to the canvas: checked, cropped, weighted, translated by fractions of a pixel, added."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tessera.errors import InvalidArgumentError, ResourceExhaustedError

EPSILON = 1e-9
"""What is added to the summed weights before they divide."""
MAX_SIDE = 8192
"""Pixels a side that an object has at most: a canvas of 768 MiB in single precision."""
MAX_OFFSET = 1e9
"""Pixels; a double has seven digits after the point up to here."""
STEP = 2.0**-32
"""Pixels; places on a canvas are multiples of it. Libraries round means differently, in the last digit; without this a patch at a whole
pixel would, or would not, touch the next one with a weight of 1e-14, which `EPSILON` does not make small enough."""


def check_shapes(patches: tuple[int, ...], offsets: tuple[int, ...], crop: int, weights: tuple[int, ...] | None) -> None:
    """Refuse shapes of patches (..., B, N, N), offsets (..., B, 2) and weights (N, N) that do not fit together or hold no patch.

    Raises:
        InvalidArgumentError: With the field and what it must be.
    """
    if len(patches) < 3 or patches[-1] != patches[-2] or 0 in patches:
        raise InvalidArgumentError(f"patches must be (B, N, N), at least one, not {patches}", field="patches")
    if offsets != (*patches[:-2], 2):
        raise InvalidArgumentError(f"offsets must be {(*patches[:-2], 2)}, an (x, y) for each patch, not {offsets}", field="offsets")
    if not 1 <= crop <= patches[-1]:
        raise InvalidArgumentError(f"the crop must be 1 to {patches[-1]} pixels, not {crop}", field="crop")
    if weights is not None and weights != patches[-2:]:
        raise InvalidArgumentError(f"weights must be {patches[-2:]}, not {weights}", field="weights")


def check_offsets(offsets: NDArray[np.floating]) -> None:
    """Refuse offsets (B, 2) that are not finite, or so large that no fraction of a pixel is left of them.

    Raises:
        InvalidArgumentError: With the number of them.
    """
    wrong = int((~(np.abs(offsets) <= MAX_OFFSET)).any(axis=-1).sum())
    if wrong:
        raise InvalidArgumentError(f"{wrong} of {len(offsets)} offsets are not finite, or beyond {MAX_OFFSET:g} pixels", field="offsets")


def check_side(side: float) -> None:
    """Refuse a canvas that would have more than `MAX_SIDE` pixels a side.

    Raises:
        ResourceExhaustedError: With both numbers.
    """
    if not side <= MAX_SIDE:
        reason = f"patches at these places need a canvas of {side:.6g} pixels a side, more than {MAX_SIDE}"
        raise ResourceExhaustedError(f"{reason}; offsets must be in pixels of the object", field="offsets")


def check_weights(weights: NDArray[np.floating] | None) -> None:
    """Refuse weights that are negative or not finite.

    Raises:
        InvalidArgumentError: With what they must be.
    """
    if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise InvalidArgumentError("weights must be finite and not negative", field="weights")


def central(patches: NDArray[Any], crop: int) -> NDArray[Any]:
    """Return the central square of `crop` pixels a side of patches (..., N, N); their pixel N // 2 becomes pixel crop // 2."""
    first = patches.shape[-1] // 2 - crop // 2
    return patches[..., first : first + crop, first : first + crop]


def cropped_weights(weights: NDArray[np.floating] | None, size: int, crop: int, dtype: DTypeLike) -> NDArray[np.floating]:
    """Return the weights (crop, crop) of a cropped patch, in the real type of the complex `dtype`."""
    whole = np.ones((size, size)) if weights is None else weights
    return central(whole, crop).astype(np.dtype(dtype).type(0).real.dtype)


def empty_sums(rows: int, columns: int, dtype: DTypeLike) -> NDArray[np.floating]:
    """Return the sums of a canvas without patches, zeros (rows, columns, 3): real part, imaginary part, weight, in a real type."""
    return np.zeros((rows, columns, 3), dtype)


def scatter(
    sums: NDArray[np.floating],
    patches: NDArray[np.complexfloating],
    weights: NDArray[np.floating],
    corners: NDArray[np.float64],
    *,
    coherent: bool = False,
) -> None:
    """Add weighted patches, and their weights, to a canvas.

    Args:
        sums: (rows, columns, 3) as `empty_sums` gives them; changed.
        patches: Complex, (B, M, M).
        weights: (M, M), in the type of `sums`.
        corners: float64, (B, 2), (x, y) in the canvas of their upper left pixels; one pixel is free after the last.
        coherent: Turn each patch by the constant phase with which it fits best what is there already.
    """
    count, side, _ = patches.shape
    channels = np.empty((count, side, side, 3), sums.dtype)
    np.multiply(patches.real, weights, out=channels[..., 0])
    np.multiply(patches.imag, weights, out=channels[..., 1])
    channels[..., 2] = weights
    corners = snapped(corners)
    whole = np.floor(corners)
    moved = translated(channels, corners - whole)
    # Rows of pixels and channels are one axis from here on: numpy adds long rows faster than many short ones.
    rows, width = sums.reshape(len(sums), -1), 3 * (side + 1)
    for (x, y), patch in zip(whole.astype(int).tolist(), moved.reshape(count, side + 1, width), strict=True):
        here = rows[y : y + side + 1, 3 * x : 3 * x + width]
        if coherent:
            _turn(patch.reshape(-1, 3), here.reshape(-1, 3))
        here += patch


def _turn(patch: NDArray[np.floating], here: NDArray[np.floating]) -> None:
    """Turn a patch (pixels, 3), in place, to the phase of sum(conj(patch) here); where nothing is there it stays as it is."""
    real, imaginary = patch[:, 0].copy(), patch[:, 1].copy()
    cosine, sine = real @ here[:, 0] + imaginary @ here[:, 1], real @ here[:, 1] - imaginary @ here[:, 0]
    length = np.hypot(cosine, sine)
    if length > 0:
        patch[:, 0] = (cosine * real - sine * imaginary) / length
        patch[:, 1] = (sine * real + cosine * imaginary) / length


def snapped(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return places in pixels, each at the nearest multiple of `STEP`."""
    return np.asarray(np.round(places / STEP) * STEP, np.float64)


def translated(pictures: NDArray[np.floating], fraction: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return pictures (B, M, M, channels), translated to the right and down by fractions of a pixel (B, 2), bilinearly.

    They come back one row and one column larger: (B, M + 1, M + 1, channels).
    """
    count, side, _, channels = pictures.shape
    # Taken from one in double precision: a small share keeps its digits.
    (x, y), (rest_x, rest_y) = (share.T[:, :, None, None].astype(pictures.dtype) for share in (fraction, 1 - fraction))
    rows = pictures.reshape(count, side, -1)
    wide = np.zeros((count, side, (side + 1) * channels), pictures.dtype)
    wide[:, :, :-channels] = rows * rest_x
    wide[:, :, channels:] += rows * x
    tall = np.zeros((count, side + 1, (side + 1) * channels), pictures.dtype)
    tall[:, :-1] = wide * rest_y
    tall[:, 1:] += wide * y
    return tall.reshape(count, side + 1, side + 1, channels)


def divide(sums: NDArray[np.floating]) -> NDArray[np.complexfloating]:
    """Return the object (rows, columns), the weighted mean at each pixel, from the sums (rows, columns, 3), in their precision."""
    parts = sums[..., :2] / (sums[..., 2:] + sums.dtype.type(EPSILON))
    return parts.view(np.result_type(sums.dtype, np.complex64))[..., 0]
