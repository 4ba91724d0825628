"""Pictures from outside: what is accepted comes out as upright RGB, and everything else is refused with a reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.errors import InvalidArgumentError
from tessera.tasks.images import MAX_BYTES, decode_image, encode_png, load_image

SIZE = (12, 8)
PHOTO = Path(__file__).parents[2] / "examples/photo.jpg"


def encoded(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_name, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.effect_noise(size, 80).convert(mode)


def png_that_claims(width: int, height: int) -> bytes:
    """A few hundred bytes whose header promises a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def refused(data: bytes) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(data, field="piece.image")
    assert caught.value.field == "piece.image"
    return caught.value


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_three_formats_are_read_in_colour_and_grey(format_name: str, mode: str) -> None:
    image = decode_image(encoded(noise(mode), format_name))
    assert (image.mode, image.size) == ("RGB", SIZE)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "L", "RGB"])
def test_every_png_mode_comes_out_as_rgb(mode: str) -> None:
    assert decode_image(encoded(noise(mode))).mode == "RGB"


def test_a_png_is_decoded_without_loss() -> None:
    image = noise()
    assert np.array_equal(np.asarray(decode_image(encode_png(image))), np.asarray(image))


def test_cmyk_is_converted() -> None:
    red = Image.new("CMYK", SIZE, (0, 255, 255, 0))
    assert np.allclose(np.asarray(decode_image(encoded(red, "JPEG", quality=95)))[0, 0], [255, 0, 0], atol=6)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.full((8, 8), 0x8000, dtype=np.uint16)
    assert np.asarray(decode_image(encoded(Image.fromarray(values)))).max() == 0x80


def test_transparent_parts_are_laid_on_white() -> None:
    image = Image.new("RGBA", SIZE, (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 6, 8))
    pixels = np.asarray(decode_image(encoded(image)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 11].tolist() == [200, 0, 0]


def test_a_palette_with_a_transparent_colour_is_laid_on_white() -> None:
    image = Image.new("P", SIZE, 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert np.asarray(decode_image(encoded(image, transparency=0)))[0, 0].tolist() == [255, 255, 255]


def test_the_orientation_of_a_camera_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    assert decode_image(encoded(noise(), "JPEG", exif=exif)).size == SIZE[::-1]


def test_a_multi_picture_jpeg_of_a_phone_is_its_first_picture() -> None:
    data = encoded(Image.new("RGB", SIZE, "red"), "MPO", save_all=True, append_images=[Image.new("RGB", SIZE, "blue")])
    assert np.asarray(decode_image(data))[0, 0, 0] > 200


def test_nothing_is_refused_as_empty() -> None:
    assert "empty" in refused(b"").message


def test_what_is_no_picture_is_refused() -> None:
    assert "not a PNG, JPEG or WebP" in refused(b"How do you do?").message


@pytest.mark.parametrize("format_name", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(format_name: str) -> None:
    assert "not a PNG, JPEG or WebP" in refused(encoded(noise("L"), format_name)).message


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(format_name: str) -> None:
    data = encoded(noise("RGB", (64, 64)), format_name)
    assert "damaged or truncated" in refused(data[: len(data) // 2]).message


def test_one_pixel_is_refused() -> None:
    assert "1 x 1" in refused(encoded(noise("RGB", (1, 1)))).message


def test_a_small_file_that_claims_a_huge_picture_is_refused_before_decoding() -> None:
    assert "pixels" in refused(png_that_claims(20_000, 20_000)).message


@pytest.mark.parametrize("size", [(4001, 4000), (10_000, 9_000), (13_000, 13_000)])
def test_more_than_16_million_pixels_are_refused(size: tuple[int, int]) -> None:
    assert "16000000 pixels" in refused(png_that_claims(*size)).message


def test_a_file_of_more_than_ten_megabytes_is_refused() -> None:
    assert "10000001 bytes" in refused(b"\x89PNG" + b"\0" * (MAX_BYTES - 3)).message


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_an_animation_is_refused(format_name: str) -> None:
    data = encoded(noise(), format_name, save_all=True, append_images=[noise(), noise()], duration=100)
    assert "animated" in refused(data).message


def test_a_picture_file_is_loaded() -> None:
    assert load_image(PHOTO).size == (512, 512)


def test_a_file_that_cannot_be_read_is_refused_without_its_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot read missing\.jpg") as caught:
        load_image(tmp_path / "missing.jpg")
    assert str(tmp_path) not in caught.value.message


@given(st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    for prefix in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8 "):
        refused(prefix + data)


@given(st.integers(min_value=0, max_value=700), st.integers(min_value=0, max_value=255))
def test_one_wrong_byte_gives_a_picture_or_a_refusal(position: int, value: int) -> None:
    for data in (_PNG, _JPEG):
        broken = bytearray(data)
        broken[position % len(broken)] = value
        try:
            image = decode_image(bytes(broken))
        except InvalidArgumentError:
            continue
        assert image.mode == "RGB"


_PNG, _JPEG = encoded(noise()), encoded(noise(), "JPEG")
