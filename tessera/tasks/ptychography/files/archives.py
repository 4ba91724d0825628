"""Reads numpy archives and bzip2 files that nobody vouches for: no more memory or disk than was allowed, whatever they claim."""

import bz2
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tessera.blob_files import disk_errors
from tessera.errors import InvalidArgumentError, ResourceExhaustedError

_PART = 1 << 20
_SUFFIX = ".npy"


def unpack_bzip2(source: Path, target: Path, max_bytes: int, field: str) -> None:
    """Write what a bzip2 file holds to another file.

    Raises:
        InvalidArgumentError: It is damaged or ends too early.
        ResourceExhaustedError: It holds more than `max_bytes`, or the disk is full.
    """
    written = 0
    with bz2.open(source) as packed, disk_errors(), target.open("wb") as file:
        while part := _next_part(packed, field):
            written += len(part)
            check_bytes(written, max_bytes, field)
            file.write(part)


def _next_part(packed: bz2.BZ2File, field: str) -> bytes:
    """Return the next bytes that a bzip2 file holds, none after the last."""
    try:
        return packed.read(_PART)
    except (EOFError, OSError) as error:
        raise InvalidArgumentError(f"the bzip2 file is damaged or ends too early: {error}", field=field) from error


def check_bytes(count: int, max_bytes: int, field: str) -> None:
    """Raise ResourceExhaustedError if a scan holds, or claims to hold, more bytes than it may."""
    if count > max_bytes:
        raise ResourceExhaustedError(f"the scan holds {count} bytes or more; at most {max_bytes} are allowed", field=field)


class NpzReader:
    """The arrays of an .npz file, whose shapes are known before one of them is read; a context manager.

    Args:
        path: The file.
        field: Path of the request field that named it, for errors.
        max_bytes: Most that they may hold together.

    Attributes:
        shapes: Shape of every array by name.
        dtypes: Element type of every array.

    Raises:
        InvalidArgumentError: It is no such file, is damaged, ends too early, or an array is shorter than it claims.
        ResourceExhaustedError: They hold more than `max_bytes`.
    """

    def __init__(self, path: Path, field: str, max_bytes: int) -> None:
        self._field = field
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        with self._damage():
            self._zip = zipfile.ZipFile(path)
            for member in self._zip.infolist():
                if member.filename.endswith(_SUFFIX):
                    self._add(member)
        check_bytes(sum(_claimed(self.shapes[name], self.dtypes[name]) for name in self.shapes), max_bytes, field)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()

    def read(self, name: str) -> NDArray[Any]:
        """Return an array; InvalidArgumentError if it holds no numbers, or is damaged."""
        dtype = self.dtypes[name]
        if dtype.kind not in "biufc":
            raise InvalidArgumentError(f"{name} has the element type {dtype}; numbers are needed", field=self._field)
        with self._damage(), self._zip.open(name + _SUFFIX) as file:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            return array

    def _add(self, member: zipfile.ZipInfo) -> None:
        """Read the header of an array; ValueError if it cannot be true."""
        with self._zip.open(member) as file:
            shape, dtype = _read_header(file)
        name = member.filename.removesuffix(_SUFFIX)
        if not dtype.hasobject and _claimed(shape, dtype) > member.file_size:
            raise ValueError(f"{name} claims {list(shape)} elements of {dtype}, but the file holds {member.file_size} bytes for it")
        self.shapes[name], self.dtypes[name] = shape, dtype

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Name what Python's and numpy's readers raise for a damaged file."""
        try:
            yield
        # RuntimeError: encrypted; NotImplementedError, one of those: another compression; the others: bytes that are missing or wrong.
        except (zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError, EOFError, OSError, ValueError, RuntimeError) as error:
            raise InvalidArgumentError(f"the .npz file is damaged or ends too early: {error}", field=self._field) from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and element type of the .npy file that begins here; ValueError if it is none."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if any(extent < 0 for extent in shape):  # it would also make up for what other arrays claim
        raise ValueError(f"an array claims the shape {list(shape)}")
    return shape, dtype


def _claimed(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the bytes that an array would take in memory."""
    return math.prod(shape) * dtype.itemsize
