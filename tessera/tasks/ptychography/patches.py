"""What is done to patches on their way to the canvas: checked, cropped, weighted, translated by fractions of a pixel, added."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tessera.errors import InvalidArgumentError

EPSILON = 1e-9
"""What is added to the summed weights before they divide."""


def check(shape: tuple[int, ...], offsets: NDArray[np.floating], crop: int, weights: NDArray[np.floating] | None) -> None:
    """Refuse patches of this shape, offsets, crop and weights that do not fit together.

    Raises:
        InvalidArgumentError: With the field and what it must be.
    """
    if len(shape) != 3 or shape[1] != shape[2] or shape[0] == 0:
        raise InvalidArgumentError(f"patches must be (B, N, N), at least one, not {shape}", field="patches")
    if offsets.shape != (shape[0], 2):
        raise InvalidArgumentError(f"offsets must be ({shape[0]}, 2), an (x, y) for each patch, not {offsets.shape}", field="offsets")
    if not np.isfinite(offsets).all():
        raise InvalidArgumentError("offsets must be finite", field="offsets")
    check_crop(shape[1], crop, weights)


def check_crop(size: int, crop: int, weights: NDArray[np.floating] | None) -> None:
    """Refuse a crop, or weights, that do not fit patches of `size` pixels a side.

    Raises:
        InvalidArgumentError: With the field and what it must be.
    """
    if not 1 <= crop <= size:
        raise InvalidArgumentError(f"the crop must be 1 to {size} pixels, not {crop}", field="crop")
    if weights is not None and weights.shape != (size, size):
        raise InvalidArgumentError(f"weights must be ({size}, {size}), not {weights.shape}", field="weights")
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


def scatter(
    total: NDArray[np.complexfloating],
    weight: NDArray[np.floating],
    patches: NDArray[np.complexfloating],
    pixel_weights: NDArray[np.floating],
    corners: NDArray[np.float64],
) -> None:
    """Add weighted patches, and their weights, to a canvas.

    Args:
        total: Complex (rows, columns), the weighted sum; changed.
        weight: Real (rows, columns), the summed weights; changed.
        patches: Complex, (B, M, M), of the canvas's type.
        pixel_weights: Real, (M, M).
        corners: float64, (B, 2), (x, y) in the canvas of their upper left pixels, fractional; one pixel is free after the last.
    """
    whole = np.floor(corners)
    fraction = (corners - whole).astype(pixel_weights.dtype)
    values = translated(patches * pixel_weights, fraction)
    weights = translated(np.broadcast_to(pixel_weights, patches.shape), fraction)
    side = values.shape[-1]
    for (x, y), value, weight_here in zip(whole.astype(int).tolist(), values, weights, strict=True):
        total[y : y + side, x : x + side] += value
        weight[y : y + side, x : x + side] += weight_here


def translated(patches: NDArray[Any], fraction: NDArray[np.floating]) -> NDArray[Any]:
    """Return patches (B, M, M), translated to the right and down by fractions of a pixel (B, 2), bilinearly: (B, M + 1, M + 1)."""
    count, side, _ = patches.shape
    x, y = fraction[:, 0, None, None], fraction[:, 1, None, None]
    wide = np.zeros((count, side, side + 1), patches.dtype)
    wide[:, :, :-1] = patches * (1 - x)
    wide[:, :, 1:] += patches * x
    tall = np.zeros((count, side + 1, side + 1), patches.dtype)
    tall[:, :-1] = wide * (1 - y)
    tall[:, 1:] += wide * y
    return tall


def divide(total: NDArray[np.complexfloating], weight: NDArray[np.floating]) -> NDArray[np.complexfloating]:
    """Return the weighted mean at each pixel from the weighted sum and the summed weights, in their types."""
    return total / (weight + weight.dtype.type(EPSILON))
