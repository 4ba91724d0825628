"""Tensors on the wire and in memory: conversion between `common.v1.Tensor` and numpy, and the checks that both sides of a model need.

The names of element types are those of the Open Inference Protocol ("FP32", "INT64", ...). Everything that comes from outside is checked
here before a model sees it: type, shape, number of bytes, NaN and infinity.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tessera import strings
from tessera.api.common.v1 import common_pb2
from tessera.errors import InvalidArgumentError

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(np.object_),
}
"""Element types by their protocol name. The elements of BYTES are `str` in memory and UTF-8 on the wire, as ONNX has it."""

FLOATS = frozenset(DTYPES[name] for name in ("FP16", "FP32", "FP64", "BF16"))
"""Element types that know NaN and infinity."""

MAX_DIMENSIONS = 8
"""More dimensions than this are refused: no model here needs them, and numpy itself ends at 64."""

_PREFIX = "DATA_TYPE_"
_BOOL, _STRINGS = DTYPES["BOOL"], DTYPES["BYTES"]
_LITTLE_ENDIAN = sys.byteorder == "little"


class Spec(Protocol):
    """What a model declares about one input or output, wherever the declaration is kept."""

    @property
    def name(self) -> str:
        """Name in the model graph."""

    @property
    def data_type(self) -> str:
        """A key of `DTYPES`."""

    @property
    def shape(self) -> Sequence[int]:
        """Extents; -1 stands for any positive extent."""


@dataclass(frozen=True)
class TensorSpec:
    """The `Spec` of a task's tensor.

    Attributes:
        name: Name in the model graph.
        data_type: A key of `DTYPES`.
        shape: Extents; -1 stands for any positive extent (usually the batch).
    """

    name: str
    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """The tensors that every model of a task takes and gives.

    Attributes:
        inputs: What goes in, in order.
        outputs: What comes out, in order.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def type_name(dtype: np.dtype[Any], field: str = "data_type") -> str:
    """Return the protocol name of a numpy element type, for example "FP32"; InvalidArgumentError if the protocol has none."""
    for name, known in DTYPES.items():
        if dtype.newbyteorder("=") == known:
            return name
    raise InvalidArgumentError.unknown("element type", str(dtype), (str(known) for known in DTYPES.values()), field=field)


def from_proto(tensor: common_pb2.Tensor, field: str) -> Array:
    """Return the array that a message carries, read-only and without a copy where the machine is little endian.

    Args:
        tensor: The message.
        field: Path of the message in the request, for errors.

    Raises:
        InvalidArgumentError: Unknown type, more than `MAX_DIMENSIONS` dimensions, an extent below 1, or see `from_bytes`.
    """
    dtype = _dtype(tensor.data_type, f"{field}.data_type")
    shape = tuple(tensor.shape)
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidArgumentError(f"{len(shape)} dimensions; at most {MAX_DIMENSIONS} are allowed", field=f"{field}.shape")
    if any(extent < 1 for extent in shape):
        raise InvalidArgumentError(f"shape {list(shape)} has an extent below 1", field=f"{field}.shape")
    return from_bytes(tensor.data, dtype, shape, f"{field}.data")


def to_proto(array: Array) -> common_pb2.Tensor:
    """Return the message that carries `array`; InvalidArgumentError for an element type that the protocol does not have."""
    name = type_name(array.dtype)
    return common_pb2.Tensor(data_type=common_pb2.DataType.Value(_PREFIX + name), shape=array.shape, data=to_bytes(array))


def from_bytes(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], field: str) -> Array:
    """Return the array whose elements lie in `data`: row by row, little endian; BYTES as `strings.unpack` wants them.

    It is read-only, and no copy where the machine is little endian.

    Args:
        data: The elements.
        dtype: A value of `DTYPES`.
        shape: Extents, none below 1.
        field: Path of the data in the request, for errors.

    Raises:
        InvalidArgumentError: A number of bytes that does not fit the shape, a BOOL other than 0 or 1, NaN or infinity, or broken BYTES.
    """
    if dtype == _STRINGS:
        return strings.unpack(data, math.prod(shape), field).reshape(shape)
    # Python's integers do not overflow, so a product beyond 64 bits is simply too large for the bytes that came.
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        message = f"{len(data)} bytes came, but shape {list(shape)} of {dtype} needs {expected}"
        raise InvalidArgumentError(message, field=field)
    if dtype == _BOOL and data.translate(None, b"\x00\x01"):
        raise InvalidArgumentError("a BOOL is neither 0 nor 1", field=field)
    array = np.frombuffer(data, dtype) if _LITTLE_ENDIAN else np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    check_finite(array, field)  # before it gets more axes, which would cost a third more
    return array.reshape(shape)


def to_bytes(array: Array) -> bytes:
    """Return the elements of an array of one of `DTYPES` as `from_bytes` reads them."""
    if array.dtype == _STRINGS:
        return strings.pack(array)
    if _LITTLE_ENDIAN and array.dtype.isnative:
        return array.tobytes()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def check_array(array: Array, spec: Spec, field: str) -> None:
    """Check that `array` is what `spec` declares.

    Raises:
        InvalidArgumentError: Another element type, number of dimensions or extent.
    """
    expected = DTYPES.get(spec.data_type)
    if expected is None:
        raise InvalidArgumentError.unknown("element type", spec.data_type, DTYPES, field=field)
    if array.dtype != expected:
        raise InvalidArgumentError(f"{spec.name} has element type {array.dtype}; {spec.data_type} is needed", field=field)
    fits = len(array.shape) == len(spec.shape) and all(
        extent == declared or (declared == -1 and extent > 0) for extent, declared in zip(array.shape, spec.shape, strict=True)
    )
    if not fits:
        message = f"{spec.name} has shape {list(array.shape)}; {list(spec.shape)} is needed (-1: any)"
        raise InvalidArgumentError(message, field=field)


def check_finite(array: Array, field: str) -> None:
    """Raise InvalidArgumentError if a floating point array holds NaN or infinity."""
    if array.dtype in FLOATS and not np.isfinite(array).all():
        raise InvalidArgumentError("there is NaN or infinity among the values", field=field)


def _dtype(value: int, field: str) -> np.dtype[Any]:
    """Return the numpy type of a `common.v1.DataType` number, which a newer peer may send beyond those known here."""
    known = dict(zip(common_pb2.DataType.values(), common_pb2.DataType.keys(), strict=True))
    name = known.get(common_pb2.DataType.ValueType(value), "").removeprefix(_PREFIX)
    if name not in DTYPES:
        raise InvalidArgumentError.unknown("data type", str(value), DTYPES, field=field)
    return DTYPES[name]
