"""Strings in tensors: packed behind their lengths for the wire, or filled up to one length for files."""

import struct

import numpy as np
import pytest

from tessera.errors import InvalidArgumentError
from tessera.strings import from_fixed, pack, to_fixed, unpack

WORDS = np.array([["one", ""], ["zw\u00f6lf", "a\0b"]], dtype=np.object_)


def test_strings_come_back_from_the_wire() -> None:
    assert np.array_equal(unpack(pack(WORDS), 4, "x").reshape(2, 2), WORDS)


def test_strings_that_are_bytes_already_are_packed_as_they_are() -> None:
    assert pack(np.array([b"ab", "c"], dtype=np.object_)) == b"\2\0\0\0ab\1\0\0\0c"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 strings came; the shape needs 2"),
        (b"\1\0\0\0a", "1 strings came"),
        (b"\1\0\0\0a" * 3, "more strings came than the 2"),
        (b"\1\0\0\0a\1\0", "the length of string 1 is cut off: 2 bytes of 4"),
        (b"\1\0\0\0a\5\0\0\0b", "string 1 says 5 bytes; 1 are left"),
        (struct.pack("<I", 2**32 - 1) + b"a", "string 0 says 4294967295 bytes; 1 are left"),
        (b"\1\0\0\0a\1\0\0\0\xff", "string 1 is not UTF-8"),
    ],
)
def test_broken_strings_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as refused:
        unpack(data, 2, "raw_input_contents[0]")
    assert refused.value.field == "raw_input_contents[0]"


def test_strings_come_back_from_a_file_of_numbers() -> None:
    assert np.array_equal(from_fixed(to_fixed(WORDS)), WORDS)
