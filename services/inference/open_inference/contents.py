"""Typed contents: the elements of a tensor as numbers of protobuf, for callers who do not send bytes."""

from typing import Any

import numpy as np

from tessera import strings
from tessera.api.openinference.v2.open_inference_pb2 import InferTensorContents
from tessera.errors import InvalidArgumentError
from tessera.tensors import DTYPES, Array, check_finite

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of each type lie; FP16 and BF16 have no place in the protocol."""
_WIDE: dict[str, np.dtype[Any]] = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}


def read_contents(contents: InferTensorContents, datatype: str, count: int, field: str) -> Array:
    """Return the elements, shape (count,).

    Args:
        contents: What came.
        datatype: A key of `DTYPES`.
        count: How many there must be.
        field: Path of the contents in the request, for errors.

    Raises:
        InvalidArgumentError: A type that travels raw only, elements in the field of another type or too many or few of them, a number
            beyond its type, NaN or infinity, or no UTF-8.
    """
    name = FIELDS.get(datatype)
    if name is None:
        raise InvalidArgumentError(f"{datatype} has no typed contents; send it in raw_input_contents", field=field)
    if wrong := [other.name for other, _ in contents.ListFields() if other.name != name]:
        raise InvalidArgumentError(f"{datatype} belongs into {name}, not into {', '.join(wrong)}", field=field)
    values = getattr(contents, name)
    if len(values) != count:
        raise InvalidArgumentError(f"{len(values)} elements came; the shape needs {count}", field=f"{field}.{name}")
    if datatype == "BYTES":
        return strings.from_list(list(values), count, f"{field}.{name}")
    dtype = DTYPES[datatype]
    wide = np.array(values, dtype=_WIDE.get(name, dtype))
    array = wide.astype(dtype, copy=False)
    if not np.array_equal(array, wide, equal_nan=dtype.kind == "f"):
        raise InvalidArgumentError(f"there is a number beyond {datatype}", field=f"{field}.{name}")
    check_finite(array, f"{field}.{name}")
    return array
