"""Previews are small, whatever the object."""

import io

import numpy as np
import pytest
from PIL import Image

from services.inference.ptychography.listener import Progress
from services.inference.ptychography.previews import MOST_PIXELS, preview


@pytest.mark.parametrize(("shape", "size"), [((30, 40), (40, 30)), ((1100, 2000), (500, 275)), ((8, 8192), (512, 1))])
def test_a_preview_has_few_pixels_even_of_a_scan_along_a_line(shape: tuple[int, int], size: tuple[int, int]) -> None:
    drawn = preview(np.ones(shape, np.complex64), Progress(7, 5))
    assert (drawn.frames, drawn.iteration) == (5, 0)
    for picture in (drawn.amplitude, drawn.phase):
        assert Image.open(io.BytesIO(picture)).size == size
        assert max(size) <= MOST_PIXELS
