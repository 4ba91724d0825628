"""The tensors of the two kinds of models of this task: networks, which see a patch at a time, and iterative engines.

An engine's graph is one step: it takes the object and the probe as they stand and some frames, and gives them improved. Iterating,
shuffling, progress, previews and cancelling are the caller's, so any runtime that computes graphs can serve an engine.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tessera.tensors import Signature, TensorSpec

Kind = Literal["network", "engine"]

STEPS = ("object", "probe", "positions")
"""Meaning of the elements of an engine's input `steps`: step lengths, each 0 (leave it as it is) or more, relative to the engine's own."""


def network_signature(size: int, group: int) -> Signature:
    """Return the tensors of a network for frames of `size` x `size` pixels that sees `group` neighbours at once.

    `amplitudes` are scaled by `normalisation`. `patches` are the object as each frame sees it, real and imaginary part; what the network
    does not know (outside its central square) is zero.
    """
    return Signature(
        inputs=(TensorSpec("amplitudes", "FP32", (-1, group, size, size)),),
        outputs=(TensorSpec("patches", "FP32", (-1, group, 2, size, size)),),
    )


def engine_signature(size: int) -> Signature:
    """Return the tensors of an engine for frames of `size` x `size` pixels.

    The first axis is always 1: one scan. In go `object` (1, 2, rows, columns); `probe` (1, modes, 2, size, size); `amplitudes`
    (1, b, size, size) of b frames as recorded, zero frequency in the centre; `corners` (1, b, 2), the (x, y) in `object` of the upper left
    pixels of their patches, fractional, at least 1 and at most extent - size - 2; `steps` (1, 3), see `STEPS`.

    Out come object, probe and corners improved, and for each frame, as it was before the step, `residuals` sum((|Psi| - amplitude)^2) and
    `powers` sum(amplitude^2), (1, b): the ratio of their sums over a scan is its Fourier error.
    """
    return Signature(
        inputs=(
            TensorSpec("object", "FP32", (1, 2, -1, -1)),
            TensorSpec("probe", "FP32", (1, -1, 2, size, size)),
            TensorSpec("amplitudes", "FP32", (1, -1, size, size)),
            TensorSpec("corners", "FP32", (1, -1, 2)),
            TensorSpec("steps", "FP32", (1, len(STEPS))),
        ),
        outputs=(
            TensorSpec("new_object", "FP32", (1, 2, -1, -1)),
            TensorSpec("new_probe", "FP32", (1, -1, 2, size, size)),
            TensorSpec("new_corners", "FP32", (1, -1, 2)),
            TensorSpec("residuals", "FP32", (1, -1)),
            TensorSpec("powers", "FP32", (1, -1)),
        ),
    )


def to_channels(array: NDArray[np.complexfloating]) -> NDArray[np.float32]:
    """Return a complex array (..., rows, columns) as float32 (..., 2, rows, columns): real part, imaginary part."""
    return np.stack([array.real, array.imag], axis=-3).astype(np.float32)


def from_channels(array: NDArray[np.floating]) -> NDArray[np.complex64]:
    """Return a real array (..., 2, rows, columns) as complex64 (..., rows, columns)."""
    return (array[..., 0, :, :] + 1j * array[..., 1, :, :]).astype(np.complex64)
