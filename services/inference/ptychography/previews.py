"""Small pictures of an object, for people who watch it grow."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.inference.ptychography.listener import Progress
from tessera.api.inference.v1 import ptychography_pb2 as pb

MOST_PIXELS = 512
"""Of a side."""


def preview(obj: NDArray[np.complex64], progress: Progress) -> pb.ReconstructionPreview:
    """Return pictures of an object (rows, columns) as it stands.

    A large one is averaged over squares of pixels, as complex numbers: the mean of phases near pi and -pi is not 0. Of a strip that is
    narrower than such a square one row, or column, of pixels remains.
    """
    factor = -(-max(obj.shape) // MOST_PIXELS)
    down, across = (min(factor, extent) for extent in obj.shape)
    rows, columns = obj.shape[0] // down, obj.shape[1] // across
    small = obj[: rows * down, : columns * across].reshape(rows, down, columns, across).mean(axis=(1, 3))
    frames = progress.frames if progress.iteration else progress.frames_done
    return pb.ReconstructionPreview(frames=frames, iteration=progress.iteration, amplitude=_png(np.abs(small)), phase=_png(np.angle(small)))


def _png(values: NDArray[np.floating]) -> bytes:
    """Return values (rows, columns) as a grey picture: black is the least, white the greatest."""
    least, range_ = values.min(), np.ptp(values)
    grey = (values - least) / range_ * 255 if range_ > 0 else np.zeros_like(values)
    file = io.BytesIO()
    Image.fromarray(np.rint(grey).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
