"""One call on its way through a version: what every service method does around its own work."""

import time
from types import TracebackType
from typing import Self

from opentelemetry import trace

from model_store.manifest import Manifest
from services.inference.batches import Answer
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from services.inference.served import ServedModel
from services.inference.spans import record
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.errors import FailedPreconditionError
from tessera.times import to_duration


class Prediction:
    """One call. `with prediction:` around all of it: decoding, `compute` once, encoding, `sign` at last.

    Args:
        served: The version that answers; it is not unloaded before the block ends.
        options: The caller's wishes.
    """

    def __init__(self, served: ServedModel, options: CallOptions) -> None:
        self._served = served
        self._options = options
        self._answer: Answer | None = None
        self._started = self._decoded = self._computed = time.monotonic()

    @property
    def manifest(self) -> Manifest:
        """Of the version that answers."""
        return self._served.manifest

    def __enter__(self) -> Self:
        self._served.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._served.__exit__(kind, error, traceback)

    def require_task(self, name: str) -> None:
        """Raise FailedPreconditionError unless the version is one of this task."""
        if self.manifest.task.name != name:
            raise FailedPreconditionError(
                f"{self._served.model} version {self._served.version} is a model of the task {self.manifest.task.name}, "
                f"not of {name}, which this method needs",
                field="model",
            )

    async def compute(self, inputs: Tensors) -> Tensors:
        """Return the outputs for one request; what was done before counts as decoding.

        Args:
            inputs: Every input of the model, checked; all with the same number of rows, at least one.

        Raises:
            TesseraError: See `Batcher.submit`.
        """
        self._decoded = time.monotonic()
        self._answer = await self._served.submit(inputs, self._options)
        self._computed = time.monotonic()
        return self._answer.outputs

    def sign(self, answered_by: AnsweredBy) -> None:
        """Write down which version answered and where the time went; in the metrics and in the trace as well. Ends encoding."""
        assert self._answer, "sign comes after compute"
        encoded = time.monotonic()
        decode_s, encode_s = self._decoded - self._started, encoded - self._computed
        served, answer = self._served, self._answer
        answered_by.model = served.model
        answered_by.version = served.version
        answered_by.digest = served.digest
        answered_by.runtime = answer.runtime
        answered_by.batch_size = answer.batch_size
        answered_by.decode.CopyFrom(to_duration(decode_s))
        answered_by.queue.CopyFrom(to_duration(answer.queue_s))
        answered_by.compute.CopyFrom(to_duration(answer.compute_s))
        answered_by.encode.CopyFrom(to_duration(encode_s))
        served.metrics.decode.observe(decode_s)
        served.metrics.encode.observe(encode_s)
        span = trace.get_current_span()
        record("inference.decode", self._started, self._decoded, span)
        record("inference.encode", self._computed, encoded, span)
