"""One call on its way through a version: what every service method does around its own work."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from google.protobuf.duration_pb2 import Duration
from opentelemetry import trace

from model_store.manifest import Manifest
from services.inference.batches import Answer
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from services.inference.served import ServedModel
from services.inference.spans import describe, record
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.errors import FailedPreconditionError, TesseraError
from tessera.histogram import exemplar_id


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over, for those who watch calls.

    Args:
        served: The version that answered, or should have.
        options: The caller's wishes.
        inputs: What went into the model, with rows as the first axis; None if the call ended before.
        answer: What came out; None if nothing did.
        code: Name of the gRPC code with which the call ends.
        seconds: From decoding to its end.
        trace_id: 32 hexadecimal digits.
    """

    served: ServedModel
    options: CallOptions
    inputs: Tensors | None
    answer: Answer | None
    code: str
    seconds: float
    trace_id: str


Watcher = Callable[[Ended], None]
"""Is told of a call when it ends, on the event loop and before the caller has its answer: it must not block, and must not raise."""


class Signature(NamedTuple):
    """How an answer came about: the runtime, the requests computed together, and seconds by phase."""

    runtime: str
    batch_size: int
    decode_s: float
    queue_s: float
    compute_s: float
    encode_s: float


class Prediction:
    """One call. `with prediction:` around all of it: decoding, `compute` once, encoding, `sign` at last.

    Args:
        served: The version that answers; it is not unloaded before the block ends.
        options: The caller's wishes.
        watchers: Are told how the call ended.
    """

    __slots__ = ("_answer", "_computed", "_decoded", "_encoded", "_inputs", "_options", "_served", "_span", "_started", "_watchers")

    def __init__(self, served: ServedModel, options: CallOptions, watchers: tuple[Watcher, ...] = ()) -> None:
        self._served = served
        self._options = options
        self._watchers = watchers
        self._inputs: Tensors | None = None
        self._answer: Answer | None = None
        self._span = trace.get_current_span()
        self._decoded = self._computed = self._encoded = 0.0
        self._started = time.monotonic()

    @property
    def served(self) -> ServedModel:
        """The version that answers."""
        return self._served

    @property
    def manifest(self) -> Manifest:
        """Of the version that answers."""
        return self._served.manifest

    def __enter__(self) -> Self:
        """Begin. Raises ResourceExhaustedError if the model has as many calls in flight as it may have."""
        try:
            self._served.__enter__()
        except TesseraError as error:
            self._served.metrics.unanswered(error.code, time.monotonic() - self._started, exemplar_id(self._span))
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Write down where the time went, in the metrics and in the trace."""
        self._served.__exit__(kind, error, traceback)
        ended = self._encoded or time.monotonic()
        trace_id = exemplar_id(self._span)
        metrics, seconds = self._served.metrics, ended - self._started
        if self._inputs is not None:
            metrics.decode.observe(self._decoded - self._started, trace_id)
        code = self._code(error) if error else "OK"
        if error:
            metrics.unanswered(code, seconds, trace_id)
            self._served.statistics.failed(seconds)
        elif self._answer:
            metrics.encode.observe(ended - self._computed, trace_id)
            metrics.answered.observe(seconds, trace_id)
            self._count(self._answer, ended, seconds)
        if trace_id:
            self._trace(ended)
        for watcher in self._watchers:
            id_ = trace.format_trace_id(self._span.get_span_context().trace_id)
            watcher(Ended(self._served, self._options, self._inputs, self._answer, code, seconds, id_))

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
        self._inputs = inputs
        self._answer = await self._served.submit(inputs, self._options)
        self._computed = time.monotonic()
        return self._answer.outputs

    def sign(self, answered_by: AnsweredBy) -> None:
        """Write down in the answer which version gave it and where the time went. Ends encoding."""
        signature = self.signature()
        answered_by.model = self._served.model
        answered_by.version = self._served.version
        answered_by.digest = self._served.digest
        answered_by.runtime = signature.runtime
        answered_by.batch_size = signature.batch_size
        _set(answered_by.decode, signature.decode_s)
        _set(answered_by.queue, signature.queue_s)
        _set(answered_by.compute, signature.compute_s)
        _set(answered_by.encode, signature.encode_s)

    def signature(self) -> Signature:
        """Return how the answer came about. Ends encoding, as `sign` does."""
        assert self._answer, "the signature comes after compute"
        self._encoded = time.monotonic()
        answer = self._answer
        return Signature(
            answer.runtime,
            answer.batch_size,
            self._decoded - self._started,
            answer.queue_s,
            answer.compute_s,
            self._encoded - self._computed,
        )

    def _count(self, answer: Answer, ended: float, seconds: float) -> None:
        rows = len(next(iter(answer.outputs.values())))
        decode_s, encode_s = self._decoded - self._started, ended - self._computed
        self._served.statistics.answered(answer, rows, decode_s=decode_s, encode_s=encode_s, total_s=seconds)

    def _code(self, error: BaseException) -> str:
        """Return the name of the gRPC code of an error; count a deadline that passed before anything was computed."""
        if isinstance(error, TesseraError):
            return error.code
        if not isinstance(error, asyncio.CancelledError):
            return "INTERNAL"
        if not self._options.ended_by_deadline(time.monotonic()):
            return "CANCELLED"
        if self._inputs is None:
            self._served.metrics.expired("decode")
        return "DEADLINE_EXCEEDED"

    def _trace(self, ended: float) -> None:
        """Say in the call's span which version answered, and add the spans of its phases."""
        describe(self._span, self._served.model, self._served.version, self._answer)
        if self._inputs is not None:
            record("inference.decode", self._started, self._decoded, self._span)
        if self._computed:
            record("inference.encode", self._computed, ended, self._span)


def _set(duration: Duration, seconds: float) -> None:
    """Set an empty duration in place, which takes a quarter of the time of copying one."""
    if seconds >= 1.0:
        duration.seconds = int(seconds)
        seconds %= 1.0
    duration.nanos = int(seconds * 1e9)
