"""Strings in tensors, the element type BYTES of the Open Inference Protocol: `str` in memory, UTF-8 behind their lengths on the wire."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError

_LENGTH = struct.Struct("<I")


def pack(array: NDArray[Any]) -> bytes:
    """Return the strings (`str` or `bytes`) of an array in row-major order, each as 4 bytes of length, little endian, and its UTF-8."""
    encoded = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
    return b"".join(part for item in encoded for part in (_LENGTH.pack(len(item)), item))


def unpack(data: bytes, count: int, field: str) -> NDArray[Any]:
    """Return the strings that `pack` wrote, shape (count,).

    Args:
        data: The strings behind their lengths.
        count: How many there must be.
        field: Path of the data in the request, for errors.

    Raises:
        InvalidArgumentError: Another number of strings, a length that reaches beyond the end, or no UTF-8.
    """
    items: list[bytes] = []
    position = 0
    while position < len(data):
        if len(items) == count:
            raise InvalidArgumentError(f"more strings came than the {count} that the shape needs", field=field)
        start = position + _LENGTH.size
        if start > len(data):
            raise InvalidArgumentError(f"the length of string {len(items)} is cut off: {len(data) - position} bytes of 4", field=field)
        length = _LENGTH.unpack_from(data, position)[0]
        position = start + length
        if position > len(data):
            raise InvalidArgumentError(f"string {len(items)} says {length} bytes; {len(data) - start} are left", field=field)
        items.append(data[start:position])
    return from_list(items, count, field)


def from_list(items: list[bytes], count: int, field: str) -> NDArray[Any]:
    """Return UTF-8 strings as an array of shape (count,); InvalidArgumentError for another number of them, or for what is no UTF-8."""
    if len(items) != count:
        raise InvalidArgumentError(f"{len(items)} strings came; the shape needs {count}", field=field)
    array = np.empty(count, dtype=np.object_)
    for index, item in enumerate(items):
        try:
            array[index] = item.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(f"string {index} is not UTF-8: {error.reason} at byte {error.start}", field=field) from None
    return array


def to_fixed(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return strings as UINT8 with one more axis, the bytes of each, filled up with zeros: for files that know numbers only."""
    encoded = np.array([str(item).encode() for item in array.flat], dtype=np.bytes_)
    return encoded.view(np.uint8).reshape(*array.shape, -1)


def from_fixed(array: NDArray[np.uint8]) -> NDArray[Any]:
    """Return what `to_fixed` was given; zeros at the end of a string are lost. Raises UnicodeDecodeError for what is no UTF-8."""
    rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1])
    decoded = np.empty(len(rows), dtype=np.object_)
    decoded[:] = [bytes(row).rstrip(b"\0").decode() for row in rows]
    return decoded.reshape(array.shape[:-1])
