"""Patches put together to one object: translate each to its place, add, divide by what was added there.

This is the reference: numpy, in any precision. `trainers.families.ptycho.reassembly` (PyTorch) and `reassembly_tensorflow` do the same
and are held to it by tests. Servers use `canvas.Canvas`, which takes patches as they come.

The semantics, with patches (B, N, N), offsets (B, 2) as (x, y) = (column, row) in pixels, and a crop of M pixels:

1. crop the central [N/2 - M/2, N/2 + M/2) of every patch;
2. adj = offsets - mean(offsets), without the rounding of the mean (`patches.STEP`);
3. pad = ceil(max |adj|), rounded up to even; the canvas has S = M + 2 pad pixels a side;
4. translate every patch, padded with zeros, by +adj: bilinear, real and imaginary part alike;
5. divide their weighted sum by 1e-9 + the sum of the weights, translated in the same way.

So the canvas's centre is the mean of the scan's positions. Weights are ones, or |probe|^2, which trusts a patch where it was lit.
"""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.offsets import Trail, check_not_collapsed
from tessera.tasks.ptychography.patches import (
    central,
    check_offsets,
    check_shapes,
    check_side,
    check_weights,
    cropped_weights,
    divide,
    empty_sums,
    scatter,
    snapped,
)


def reassemble(
    patches: NDArray[np.complexfloating],
    offsets: NDArray[np.floating],
    crop: int,
    *,
    weights: NDArray[np.floating] | None = None,
    canvas: int | None = None,
    dtype: DTypeLike = np.complex64,
    trail: Trail | None = None,
) -> tuple[NDArray[np.complexfloating], NDArray[np.floating]]:
    """Return the object that patches make, and the sum of the weights at each of its pixels.

    Args:
        patches: Complex, (B, N, N), B at least 1.
        offsets: (B, 2), (x, y) = (column, row) of each patch, pixels; only their differences matter.
        crop: M, pixels of the central square of a patch that is used, 1 to N.
        weights: (N, N), >= 0, the weight of each pixel of a patch before it is cropped; None for ones.
        canvas: Side of the canvas in place of S; what is outside is cut off.
        dtype: complex64 or complex128, the precision of everything.
        trail: Where "offsets" and "centred" are recorded; with it, and without `canvas`, offsets that were lost since its first boundary
            are an error.

    Returns:
        Object, complex (S, S), and weight, real (S, S); zero where no patch lies.

    Raises:
        InvalidArgumentError: Shapes do not fit together, or an offset is not finite.
        ResourceExhaustedError: The canvas would have more than `patches.MAX_SIDE` pixels a side.
        TesseraError: The guard, see `offsets.check_not_collapsed`.
    """
    offsets = np.asarray(offsets, np.float64)
    check_shapes(patches.shape, offsets.shape, crop, None if weights is None else weights.shape)
    check_offsets(offsets)
    check_weights(weights)
    adjusted = snapped(offsets - offsets.mean(axis=0))
    passed = trail or Trail()
    passed.record("offsets", offsets)
    passed.record("centred", adjusted)
    pad = padding(adjusted)
    pixel_weights = cropped_weights(weights, patches.shape[-1], crop, dtype)
    side = crop + 2 * pad
    # A translated patch is M + 1 pixels wide: at whole pixels its last column, of zeros, may lie beyond the canvas.
    sums = empty_sums(side + 1, side + 1, pixel_weights.dtype)
    scatter(sums, central(patches, crop), pixel_weights, adjusted + pad)
    if trail is not None and canvas is None:
        check_not_collapsed(trail, sums[..., 2], pixel_weights)
    sums = _centred(sums[:-1, :-1], canvas or side)
    return divide(sums), sums[..., 2]


def padding(adjusted: NDArray[np.floating]) -> int:
    """Return the pixels on each side of the canvas that hold patches at these centred offsets (B, 2): even, and no fewer than needed.

    Raises:
        ResourceExhaustedError: More than a canvas may have.
    """
    pixels = float(np.ceil(np.abs(adjusted).max()))
    check_side(2 * pixels)
    return int(pixels + pixels % 2)


def probe_weights(probe: NDArray[np.complexfloating]) -> NDArray[np.float32]:
    """Return |probe|^2 summed over its modes (modes, N, N), as weights (N, N) of which the greatest is 1.

    Raises:
        InvalidArgumentError: The probe is zero everywhere or not finite.
    """
    intensity: NDArray[np.float64] = np.square(np.abs(probe), dtype=np.float64).sum(axis=0)
    if not 0 < intensity.max() < np.inf:
        raise InvalidArgumentError("the probe must be finite, and not zero everywhere", field="probe")
    return np.asarray(intensity / intensity.max(), np.float32)


def _centred(sums: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    """Return sums of `side` pixels a side with the same centre, pixel side // 2; zeros where there was nothing."""
    shift = side // 2 - len(sums) // 2
    start, first = max(shift, 0), max(-shift, 0)
    length = min(side - start, len(sums) - first)
    here, there = slice(start, start + length), slice(first, first + length)
    square = empty_sums(side, side, sums.dtype)
    square[here, here] = sums[there, there]
    return square
