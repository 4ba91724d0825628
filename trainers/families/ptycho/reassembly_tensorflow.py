"""Patches put together to one object, in TensorFlow: the second witness, for parity with networks that are trained there.

The semantics are those of `tessera.tasks.ptychography.reassembly`, step by step. Each pixel of a patch goes to the four pixels of the
canvas that it touches when translated. Nothing else imports this module, so TensorFlow is needed by nobody who does not call it.
"""

import tensorflow as tf

from tessera.tasks.ptychography.patches import EPSILON, STEP, central, check_shapes, check_side


def reassemble(
    patches: tf.Tensor, offsets: tf.Tensor, crop: int, *, weights: tf.Tensor | None = None, canvas: int | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the objects that groups of patches make, and the sum of the weights at each of their pixels.

    Args:
        patches: Complex, (..., B, N, N): any number of groups of B patches; each group makes an object of its own.
        offsets: Real, (..., B, 2), (x, y) = (column, row), pixels; only differences within a group matter.
        crop: M, pixels of the central square of a patch that is used, 1 to N.
        weights: Real, (N, N), >= 0, the weight of each pixel of a patch before it is cropped; None for ones.
        canvas: Side of the canvas in place of S; what is outside is cut off.

    Returns:
        Objects, complex (..., S, S), S the same for all: as large as the group that reaches farthest needs; and weights, real
        (..., S, S). Both zero where no patch lies.

    Raises:
        InvalidArgumentError: Shapes do not fit together.
        ResourceExhaustedError: The canvas would have more than `patches.MAX_SIDE` pixels a side, or an offset is not finite.
    """
    check_shapes(tuple(patches.shape), tuple(offsets.shape), crop, None if weights is None else tuple(weights.shape))
    offsets = tf.cast(offsets, tf.float64)
    adjusted = tf.round((offsets - tf.reduce_mean(offsets, axis=-2, keepdims=True)) / STEP) * STEP
    side = crop + 2 * _padding(adjusted) if canvas is None else canvas
    cropped = central(patches, crop)
    real = tf.math.real(cropped).dtype
    pixel_weights = tf.ones((crop, crop), real) if weights is None else tf.cast(central(weights, crop), real)
    # Real part, imaginary part and weight are translated in the same way, as channels of one picture.
    channels = tf.stack(
        [tf.math.real(cropped) * pixel_weights, tf.math.imag(cropped) * pixel_weights, tf.broadcast_to(pixel_weights, cropped.shape)],
        axis=-1,
    )
    sums = _scattered(channels, adjusted + (side // 2 - crop // 2), side)
    total, weight = tf.complex(sums[..., 0], sums[..., 1]), sums[..., 2]
    return total / tf.complex(EPSILON + weight, tf.zeros_like(weight)), weight


def _padding(adjusted: tf.Tensor) -> int:
    """Return the pixels on each side of the canvas that hold patches at these centred offsets: even, and no fewer than needed."""
    pixels = float(tf.math.ceil(tf.reduce_max(tf.abs(adjusted))))
    check_side(2 * pixels)
    return int(pixels + pixels % 2)


def _scattered(channels: tf.Tensor, corners: tf.Tensor, side: int) -> tf.Tensor:
    """Return the sums (..., side, side, channels) of pictures (..., B, M, M, channels) with upper left pixels at corners (..., B, 2)."""
    leading, (crop, depth) = channels.shape[:-4], channels.shape[-2:]
    whole = tf.floor(corners)
    fraction = corners - whole
    steps = tf.range(crop, dtype=tf.int64)
    columns, rows = (tf.cast(whole[..., axis, None], tf.int64) + steps for axis in (0, 1))
    groups = tf.reshape(tf.range(leading.num_elements(), dtype=tf.int64), (*leading, 1, 1, 1))
    flat = tf.zeros((leading.num_elements() * side * side, depth), channels.dtype)
    for right in (0, 1):
        for down in (0, 1):
            x, y = (fraction[..., axis, None, None, None] for axis in (0, 1))
            share = tf.cast((x if right else 1 - x) * (y if down else 1 - y), channels.dtype)
            row, column = (rows + down)[..., :, None], (columns + right)[..., None, :]
            inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
            places = tf.boolean_mask((groups * side + row) * side + column, inside)
            flat = tf.tensor_scatter_nd_add(flat, places[:, None], tf.boolean_mask(channels * share, inside))
    return tf.reshape(flat, (*leading, side, side, depth))
