"""The golden example of a version: what it must answer before it may answer anybody."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from model_store.manifest import Manifest, TensorSpec
from services.inference.batches import Run
from services.inference.runtimes.runtime import Tensors
from tessera.errors import FailedPreconditionError
from tessera.strings import from_fixed
from tessera.tensors import DTYPES, Array

STRINGS = DTYPES["BYTES"]


@dataclass(frozen=True)
class Golden:
    """Inputs with the outputs that belong to them, all with the same number of rows.

    Args:
        inputs: Every input of the model.
        outputs: Every output.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    inputs: Tensors
    outputs: Tensors
    rtol: float
    atol: float

    @classmethod
    def load(cls, manifest: Manifest, directory: Path) -> Self:
        """Read the golden example of a version whose files lie under `directory`.

        Raises:
            FailedPreconditionError: It is unreadable or incomplete.
        """
        try:
            arrays = load_file(directory / manifest.golden.file)
            inputs = {spec.name: _array(arrays[f"inputs.{spec.name}"], spec) for spec in manifest.inputs}
            outputs = {spec.name: _array(arrays[f"outputs.{spec.name}"], spec) for spec in manifest.outputs}
        except SafetensorError as error:
            raise FailedPreconditionError(f"the golden example {manifest.golden.file} cannot be read: {error}") from error
        except KeyError as error:
            raise FailedPreconditionError(f"the golden example {manifest.golden.file} lacks the tensor {error}") from error
        lengths = {len(array) if array.ndim else 0 for array in (*inputs.values(), *outputs.values())}
        if len(lengths) != 1 or 0 in lengths:
            raise FailedPreconditionError(
                f"the golden example {manifest.golden.file} must have the same number of rows, 1 or more, everywhere"
            )
        return cls(inputs, outputs, manifest.golden.rtol, manifest.golden.atol)

    @property
    def rows(self) -> int:
        """Number of examples."""
        return len(next(iter(self.inputs.values())))

    def warm_up(self, run: Run, max_rows: int) -> None:
        """Compute every batch size that doubles from 1 to `max_rows` once, so that no request pays for the first of its kind."""
        sizes = {2**power for power in range(max_rows.bit_length())} | {max_rows}
        for size in sorted(sizes):
            rows = np.arange(size) % self.rows
            run({name: array[rows] for name, array in self.inputs.items()})

    def check(self, run: Run, max_rows: int) -> None:
        """Compute the examples in batches of `max_rows` and again one by one, and compare.

        One by one too, because a network may answer differently in company: batch normalisation left in training mode, for example.

        Raises:
            FailedPreconditionError: An output differs by more than the tolerances, in shape or in type.
        """
        for step in {min(max_rows, self.rows), 1}:
            for rows in self._slices(step):
                answered = run({name: array[rows] for name, array in self.inputs.items()})
                for name, array in self.outputs.items():
                    self._compare(name, answered[name], array[rows])

    def _slices(self, step: int) -> Iterator[slice]:
        return (slice(first, first + step) for first in range(0, self.rows, step))

    def _compare(self, name: str, answered: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
        if answered.shape != expected.shape or answered.dtype != expected.dtype:
            problem = f"is {answered.dtype} of shape {list(answered.shape)} instead of {expected.dtype} of shape {list(expected.shape)}"
        elif expected.dtype == STRINGS:
            if np.array_equal(answered, expected):
                return
            problem = f"has {np.count_nonzero(answered != expected)} other strings"
        elif not np.allclose(answered, expected, rtol=self.rtol, atol=self.atol):
            worst = np.abs(answered.astype(np.float64) - expected.astype(np.float64)).max()
            problem = f"differs by up to {worst:g}; rtol {self.rtol:g} and atol {self.atol:g} are allowed"
        else:
            return
        raise FailedPreconditionError(f"the golden example does not come out as it was recorded: {name} {problem}")


def _array(array: Array, spec: TensorSpec) -> Array:
    """Return a tensor of the file. Strings, which safetensors has not, lie in it as UINT8 with one more axis: see `strings.to_fixed`."""
    if DTYPES[spec.data_type] != STRINGS or array.dtype != np.uint8 or array.ndim == 0:
        return array
    try:
        return from_fixed(array)
    except UnicodeDecodeError as error:
        raise FailedPreconditionError(f"the golden example of {spec.name} is not UTF-8") from error
