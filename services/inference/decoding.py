"""Where pictures are decoded: small ones at once, others in a thread, so that a large one does not hold up the answers of others."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from tessera.tasks.images import decode_image, open_image, read_image

T = TypeVar("T")

SMALL_BYTES = 64 * 1024
SMALL_PIXELS = 128 * 128
"""Up to here decoding takes at most about half a millisecond; going through a thread costs a tenth of one."""


async def decode(data: bytes, preprocess: Callable[[Image.Image], T], *, field: str) -> T:
    """Decode a picture file and preprocess it.

    Args:
        data: The file.
        preprocess: The task's function from an RGB picture to model input.
        field: Path of the request field, for errors.

    Raises:
        InvalidArgumentError: See `decode_image`.
    """
    if len(data) > SMALL_BYTES:
        return await asyncio.to_thread(lambda: preprocess(decode_image(data, field=field)))
    image = open_image(data, field=field)
    if image.width * image.height > SMALL_PIXELS:  # a file of few bytes may still hold a great many pixels
        return await asyncio.to_thread(lambda: preprocess(read_image(image, field=field)))
    return preprocess(read_image(image, field=field))
