"""What one tensor of a version must look like, made once from its manifest and asked for every request."""

import math
from collections.abc import Sequence

from services.inference.open_inference.contents import read_contents
from tessera.api.openinference.v2.open_inference_pb2 import ModelInferRequest
from tessera.errors import InvalidArgumentError
from tessera.names import shown
from tessera.tensors import DTYPES, MAX_DIMENSIONS, Array, Spec, from_bytes


class InputSpec:
    """An input of a version.

    Args:
        spec: As the manifest declares it.
    """

    __slots__ = ("_accepted", "_datatype", "_dtype", "_shape", "name")

    def __init__(self, spec: Spec) -> None:
        self.name = spec.name
        self._datatype = spec.data_type
        self._dtype = DTYPES[spec.data_type]
        self._shape = tuple(spec.shape)
        self._accepted: tuple[int, ...] | None = None

    def read_raw(self, tensor: ModelInferRequest.InferInputTensor, data: bytes, index: int) -> Array:
        """Return the elements of an input from raw contents.

        Args:
            tensor: The input.
            data: Its elements.
            index: Its place in the request, for errors.

        Raises:
            InvalidArgumentError: Another type or shape, a number of bytes that does not fit, NaN or infinity, broken strings; or the
                input has typed contents too.
        """
        shape = self._check(tensor, index)
        if tensor.HasField("contents"):
            message = f"{self.name} has its elements here and in raw_input_contents; send one of them"
            raise InvalidArgumentError(message, field=f"inputs[{index}].contents")
        return from_bytes(data, self._dtype, shape, f"raw_input_contents[{index}]")

    def read_typed(self, tensor: ModelInferRequest.InferInputTensor, index: int) -> Array:
        """Return the elements of an input from its typed contents; see `read_raw` and `read_contents`."""
        shape = self._check(tensor, index)
        return read_contents(tensor.contents, self._datatype, math.prod(shape), f"inputs[{index}].contents").reshape(shape)

    def _check(self, tensor: ModelInferRequest.InferInputTensor, index: int) -> tuple[int, ...]:
        """Return the shape of an input if it, and the type, are as declared."""
        if tensor.datatype != self._datatype:
            field = f"inputs[{index}].datatype"
            if tensor.datatype not in DTYPES:
                raise InvalidArgumentError.unknown("datatype", tensor.datatype, DTYPES, field=field)
            raise InvalidArgumentError(f"{self.name} is {tensor.datatype}; {self._datatype} is needed", field=field)
        shape = tuple(tensor.shape)
        if shape == self._accepted:  # most requests look like the one before
            return shape
        if not _fits(shape, self._shape):
            raise InvalidArgumentError(f"{self.name} has shape {_listed(shape)}; {self.wanted} is needed", field=f"inputs[{index}].shape")
        self._accepted = shape
        return shape

    @property
    def wanted(self) -> str:
        """What is needed, for people."""
        return f"{self._datatype} {list(self._shape)} (-1: any, at least 1)"


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    if len(shape) != len(declared):
        return False
    return all(extent > 0 and wanted in (-1, extent) for extent, wanted in zip(shape, declared, strict=True))


def _listed(shape: Sequence[int]) -> str:
    return shown(list(shape)) if len(shape) <= MAX_DIMENSIONS else f"of {len(shape)} dimensions"


def refuse_names(what: str, got: Sequence[str], known: Sequence[str]) -> InvalidArgumentError:
    """Return the error for inputs that are missing, unknown or there twice.

    Args:
        what: Field of the request.
        got: Names that came.
        known: Names that the model has.
    """
    for index, name in enumerate(got):
        if name not in known:
            return InvalidArgumentError.unknown(what.removesuffix("s"), shown(name).strip("'"), known, field=f"{what}[{index}].name")
        if name in got[:index]:
            return InvalidArgumentError(f"{name} is there twice", field=f"{what}[{index}].name")
    missing = ", ".join(name for name in known if name not in got)
    return InvalidArgumentError(f"missing: {missing}; every input of the model is needed", field=what)
