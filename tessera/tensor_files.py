"""Named tensors in safetensors files, which are read and written a few rows at a time: a file may be much larger than the memory.

In a file that is read or written so, the first axis of every tensor is the rows, and all have the same number of them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tessera.blob_files import disk_errors
from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.tensors import MAX_DIMENSIONS

Array = NDArray[Any]

TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Element types of the format that numpy has too."""

_NAMES = {dtype: name for name, dtype in TYPES.items()}
_LENGTH_BYTES = 8


def common_rows(shapes: Mapping[str, tuple[int, ...]], field: str) -> int:
    """Return the number of rows that all tensors have.

    Args:
        shapes: By name.
        field: Path of the request field, for errors.

    Raises:
        InvalidArgumentError: There is none, one has no rows, or they have different numbers of them.
    """
    if not shapes:
        raise InvalidArgumentError("there is no tensor", field=field)
    rows = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    if len(set(rows.values())) > 1 or 0 in rows.values():
        listed = ", ".join(f"{name}: {count}" for name, count in sorted(rows.items()))
        raise InvalidArgumentError(f"all tensors need the same number of rows (first axis), 1 or more; these have {listed}", field=field)
    return next(iter(rows.values()))


class TensorFile:
    """The tensors of a file; a context manager.

    Args:
        path: A safetensors file, which must not change meanwhile.
        field: Path of the request field that named it, for errors.

    Attributes:
        shapes: Shape of every tensor by name.
        dtypes: Element type of every tensor.

    Raises:
        InvalidArgumentError: It is no such file, or holds a tensor of a type that numpy has not or of more than `MAX_DIMENSIONS`.
    """

    def __init__(self, path: Path, field: str = "inputs") -> None:
        self._field = field
        try:
            self._file: Any = safe_open(path, framework="numpy")
            self._slices = _slices_of(self._file)
        except (SafetensorError, OSError) as error:
            raise InvalidArgumentError(f"this is not a safetensors file: {error}", field=field) from error
        types = {name: part.get_dtype() for name, part in self._slices.items()}
        for name, kind in types.items():
            if kind not in TYPES:
                raise InvalidArgumentError.unknown("element type", kind, TYPES, field=f"{field}.{name}")
        self.shapes = {name: tuple(part.get_shape()) for name, part in self._slices.items()}
        for name, shape in self.shapes.items():
            if len(shape) > MAX_DIMENSIONS:
                message = f"{name} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are allowed"
                raise InvalidArgumentError(message, field=f"{field}.{name}")
        self.dtypes = {name: TYPES[kind] for name, kind in types.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._slices.clear()
        del self._file

    def read_all(self) -> dict[str, Array]:
        """Return every tensor. Raises InvalidArgumentError for a BOOL but 0 and 1."""
        return self._checked({name: self._file.get_tensor(name) for name in self._slices})

    def _checked(self, tensors: dict[str, Array]) -> dict[str, Array]:
        for name, array in tensors.items():
            if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
                raise InvalidArgumentError("a BOOL is neither 0 nor 1", field=f"{self._field}.{name}")
        return tensors


class TensorFileReader(TensorFile):
    """The tensors of a file that all have the same number of rows.

    Args:
        path: See `TensorFile`.
        field: See `TensorFile`.

    Attributes:
        rows: How many all of them have, 1 or more.

    Raises:
        InvalidArgumentError: As `TensorFile`, or tensors with different numbers of rows.
    """

    def __init__(self, path: Path, field: str = "inputs") -> None:
        super().__init__(path, field)
        self.rows = common_rows(self.shapes, field)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all tensors."""
        return sum(math.prod(shape[1:]) * self.dtypes[name].itemsize for name, shape in self.shapes.items())

    def read(self, first: int, last: int) -> dict[str, Array]:
        """Return the rows from `first` to before `last`, or to the end, of every tensor; InvalidArgumentError for a BOOL but 0 and 1."""
        last = min(last, self.rows)
        return self._checked({name: part[first:last] for name, part in self._slices.items()})


class TensorFileWriter:
    """A file whose tensors are written row by row, in any order; a context manager.

    Args:
        path: The file to make.
        rows: How many each tensor will have, 1 or more.
        like: Some rows of every tensor, which tell its shape and type.

    Raises:
        FailedPreconditionError: The format has no such type.
        ResourceExhaustedError: The disk is full.
    """

    def __init__(self, path: Path, rows: int, like: Mapping[str, Array]) -> None:
        header: dict[str, dict[str, Any]] = {}
        end = 0
        # The widest elements first, so that each tensor lies at a multiple of the size of its elements, as the format asks.
        for name, array in sorted(like.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
            if array.dtype not in _NAMES:
                raise FailedPreconditionError(f"{name} has the element type {array.dtype}, which a safetensors file cannot hold")
            shape = [rows, *array.shape[1:]]
            begin, end = end, end + math.prod(shape) * array.dtype.itemsize
            header[name] = {"dtype": _NAMES[array.dtype], "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _LENGTH_BYTES)
        start = _LENGTH_BYTES + len(text)
        with disk_errors():
            with path.open("wb") as file:
                file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
                file.truncate(start + end)
            self._tensors = {
                name: np.memmap(path, like[name].dtype, "r+", start + entry["data_offsets"][0], tuple(entry["shape"]))
                for name, entry in header.items()
            }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for tensor in self._tensors.values():
            tensor.flush()
        self._tensors.clear()

    def write(self, first: int, tensors: Mapping[str, Array]) -> None:
        """Write the rows of every tensor from `first` on.

        Raises:
            FailedPreconditionError: These are not the tensors of before, in name, shape or type.
        """
        for name, target in self._tensors.items():
            array = tensors.get(name)
            if array is None or array.shape[1:] != target.shape[1:] or array.dtype != target.dtype:
                raise FailedPreconditionError(
                    f"{name} changes from one part of the rows to the next; its shape and type must stay the same"
                )
            target[first : first + len(array)] = array


def dump_tensors(tensors: Mapping[str, Array]) -> bytes:
    """Return a small file with these tensors; equal tensors make equal bytes. Raises InvalidArgumentError for a type it cannot hold."""
    for name, array in tensors.items():
        if array.dtype.newbyteorder("=") not in _NAMES:
            raise InvalidArgumentError(f"{name} has the element type {array.dtype}, which a safetensors file cannot hold", field=name)
    return save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})


def load_tensors(path: Path) -> dict[str, Array]:
    """Return all tensors of a file. Raises InvalidArgumentError as `TensorFile` does."""
    with TensorFile(path) as file:
        return file.read_all()


def _slices_of(file: Any) -> dict[str, Any]:
    """Return what reads the rows of each tensor."""
    return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
