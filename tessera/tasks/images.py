"""Pictures from outside: decoding with limits, so that no file can harm or confuse what comes after.

Whatever colour model a picture has, 8-bit RGB comes out: grey is spread over the three channels, 16-bit values keep their upper eight
bits, CMYK is converted, transparent parts are laid on white, and the EXIF orientation of a camera is applied.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tessera.errors import InvalidArgumentError

FORMATS = ("PNG", "JPEG", "WEBP")
"""File formats that are read; Pillow knows many more, some of them with a history of holes."""
MAX_BYTES = 10_000_000
"""Largest file."""
MAX_PIXELS = 16_000_000
"""Largest picture, checked from the header before anything is decoded."""
MIN_SIDE = 4
"""Smallest width and height in pixels; below it there is nothing to recognise."""


def decode_image(data: bytes, *, field: str = "image") -> Image.Image:
    """Decode a PNG, JPEG or WebP file to an upright RGB picture.

    Args:
        data: The file, at most `MAX_BYTES`.
        field: Path of the request field that it came in, for errors.

    Returns:
        A loaded picture of mode RGB, `MIN_SIDE` pixels or more in both directions, `MAX_PIXELS` or fewer in all.

    Raises:
        InvalidArgumentError: Empty or too large a file, not one of `FORMATS`, damaged or truncated, animated, or too small or too large
            a picture.
    """
    return read_image(open_image(data, field=field), field=field)


def open_image(data: bytes, *, field: str = "image") -> Image.Image:
    """Read and check the header of a picture file; `read_image` decodes the pixels, which is what takes time.

    Returns:
        A picture whose size is known and within the limits of `decode_image`.

    Raises:
        InvalidArgumentError: As `decode_image`, but for what only the pixels show.
    """
    if not data:
        raise InvalidArgumentError("the file is empty; a PNG, JPEG or WebP picture is needed", field=field)
    if len(data) > MAX_BYTES:
        raise InvalidArgumentError(f"the file has {len(data)} bytes; at most {MAX_BYTES} are allowed", field=field)
    with _refusals(field):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_header(image, field)
        return image


def read_image(image: Image.Image, *, field: str = "image") -> Image.Image:
    """Decode the pixels of a picture from `open_image`.

    Returns:
        A loaded picture of mode RGB, upright.

    Raises:
        InvalidArgumentError: It is damaged or truncated.
    """
    with _refusals(field):
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def _refusals(field: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an InvalidArgumentError."""
    try:
        yield
    except InvalidArgumentError:
        raise
    except UnidentifiedImageError:
        raise InvalidArgumentError("the bytes are not a PNG, JPEG or WebP picture", field=field) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidArgumentError(f"the picture claims far more than {MAX_PIXELS} pixels, the most allowed", field=field) from None
    except Exception as error:
        # Pillow's decoders raise half a dozen classes for damaged files (OSError, SyntaxError, struct.error, ...); to a caller all are one.
        raise InvalidArgumentError(f"the picture is damaged or truncated: {error}", field=field) from error


def load_image(path: Path, *, field: str = "picture") -> Image.Image:
    """Read and decode a picture file; like `decode_image`, and InvalidArgumentError too if the file cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path.name}: {error.strerror}", field=field) from error
    return decode_image(data, field=field)


def encode_png(image: Image.Image) -> bytes:
    """Return a picture as a PNG file: lossless, so that a piece means the same to the trainer and to a server that is sent it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _check_header(image: Image.Image, field: str) -> None:
    """Refuse by what the header says, before memory is spent on pixels."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InvalidArgumentError(f"the picture is {width} x {height}; at most {MAX_PIXELS} pixels are allowed", field=field)
    if min(width, height) < MIN_SIDE:
        raise InvalidArgumentError(f"the picture is {width} x {height}; {MIN_SIDE} x {MIN_SIDE} is the least", field=field)
    # A multi-picture JPEG (MPO) of a phone is a photograph with a preview behind it, not an animation.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InvalidArgumentError("the picture is animated; a single picture is needed", field=field)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture of any mode as 8-bit RGB."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
