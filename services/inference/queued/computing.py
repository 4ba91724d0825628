"""Computes the inputs of one request part by part, as calls are computed that are waited for: through the router, in batches."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model_store.manifest import Manifest
from services.inference.limits import ModelLimits
from services.inference.options import CallOptions
from services.inference.patience import patiently
from services.inference.queued.progress import Progress
from services.inference.routing import Router
from services.inference.runtimes.runtime import Tensors
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.queued_pb2 import SubmitInferenceRequest
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.errors import InvalidArgumentError
from tessera.tensor_files import TensorFileReader, TensorFileWriter
from tessera.tensors import TensorSpec, check_array, check_finite

PART_BYTES = 64 << 20
"""A part of the inputs has no more bytes than this, unless one row has."""
PARTS_AT_ONCE = 2
"""While one part is computed, the next one is read and waits in the model's queue."""


class Computer:
    """Computes requests of any model.

    Args:
        router: Where models are.
        limits: How many rows go into a batch of each model.
    """

    def __init__(self, router: Router, limits: ModelLimits) -> None:
        self._router = router
        self._limits = limits

    async def compute(
        self, spec: SubmitInferenceRequest, options: CallOptions, inputs: Path, outputs: Path, progress: Progress
    ) -> AnsweredBy:
        """Compute all rows of a file and write the outputs to another; one version computes them all.

        Args:
            spec: Of the request; an alias is looked up once.
            options: With the deadline of the whole.
            inputs: A safetensors file with every input of the model.
            outputs: The file to make, with every output.
            progress: Is told how far it is.

        Returns:
            Who computed the first part.

        Raises:
            InvalidArgumentError: The inputs are not those of the model, or hold NaN or infinity.
            TesseraError: See `Router.begin` and `Prediction.compute`; ResourceExhaustedError only after a while.
        """
        with await asyncio.to_thread(TensorFileReader, inputs) as file:
            progress.rows = file.rows
            part = Part(file, 0, 0)
            first, answered_by = await patiently(partial(self._compute_part, spec.model, options, part))
            pinned = ModelSelector(model=answered_by.model, version=answered_by.version)
            with await asyncio.to_thread(TensorFileWriter, outputs, file.rows, first) as target:
                await asyncio.to_thread(target.write, 0, first)
                progress.rows_done = part.last
                await self._compute_rest(pinned, options, part, target, progress)
        return answered_by

    async def _compute_rest(
        self, selector: ModelSelector, options: CallOptions, first: "Part", target: TensorFileWriter, progress: Progress
    ) -> None:
        parts = first.following()

        async def work() -> None:
            for part in parts:  # shared: whoever is free takes the next
                outputs, _ = await patiently(partial(self._compute_part, selector, options, part))
                await asyncio.to_thread(target.write, part.first, outputs)
                progress.rows_done += part.last - part.first

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARTS_AT_ONCE):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _compute_part(self, selector: ModelSelector, options: CallOptions, part: "Part") -> tuple[Tensors, AnsweredBy]:
        with await self._router.begin(selector, options) as prediction:
            if not part.last:
                check_inputs(prediction.manifest, part.file)
                part.resize(_largest_part(prediction.manifest, self._limits.of(selector.model).max_batch, part.file.row_bytes))
            tensors = await asyncio.to_thread(part.read)
            outputs = await prediction.compute(tensors)
            answered_by = AnsweredBy()
            prediction.sign(answered_by)
        return outputs, answered_by


class Part:
    """Some of the rows of a file.

    Args:
        file: The file.
        first: First row.
        last: Row after the last; 0 where it is not known yet how many rows fit.
    """

    def __init__(self, file: TensorFileReader, first: int, last: int) -> None:
        self.file = file
        self.first = first
        self.last = last

    def resize(self, rows: int) -> None:
        """Take up so many rows, or those that there are."""
        self.last = min(self.first + rows, self.file.rows)

    def read(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return its rows of every tensor. Raises InvalidArgumentError if there is NaN or infinity among them."""
        tensors = self.file.read(self.first, self.last)
        for name, array in tensors.items():
            check_finite(array, f"inputs.{name}")
        return tensors

    def following(self) -> "Iterator[Part]":
        """Yield the parts after this one, as large as this one."""
        size = self.last - self.first
        for first in range(self.last, self.file.rows, size):
            yield Part(self.file, first, min(first + size, self.file.rows))


def check_inputs(manifest: Manifest, tensors: "TensorFileReader | InlineTensors") -> None:
    """Raise InvalidArgumentError unless these are the inputs of a version, whatever the number of rows."""
    wanted = {spec.name: TensorSpec(spec.name, spec.data_type, (-1, *spec.shape[1:])) for spec in manifest.inputs}
    if tensors.shapes.keys() != wanted.keys():
        sent, needed = (", ".join(sorted(names)) for names in (tensors.shapes, wanted))
        raise InvalidArgumentError(f"the inputs are {sent}; {manifest.model} takes {needed}", field="inputs")
    for name, spec in wanted.items():
        shape_only = np.broadcast_to(np.zeros((), tensors.dtypes[name]), tensors.shapes[name])  # takes no memory
        check_array(shape_only, spec, f"inputs.{name}")


@dataclass(frozen=True)
class InlineTensors:
    """What is known of the tensors of a message.

    Args:
        shapes: By name.
        dtypes: By name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]


def _largest_part(manifest: Manifest, max_batch: int, row_bytes: int) -> int:
    """Return how many rows go into one batch."""
    if any(spec.shape[0] == 1 for spec in manifest.inputs):  # the graph takes no other number
        return 1
    return max(1, min(max_batch, PART_BYTES // max(1, row_bytes)))
