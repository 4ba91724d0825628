"""One batch: requests are laid on top of each other, computed, and their answers taken apart again. Runs in a thread."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from opentelemetry.trace import Span

from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from tessera.errors import DeadlineExceededError, ResourceExhaustedError, TesseraError, UnavailableError

Run = Callable[[Tensors], Tensors]
"""Computes one batch: tensors by name, the first axis is the batch."""

RUNTIME_FAILED = (UnavailableError, ResourceExhaustedError, DeadlineExceededError)
"""What a runtime raises when it could not try: no request of the batch is to blame, so each caller is told exactly that."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of one request.

    Args:
        outputs: Every output of the model, with the rows of this request alone.
        batch_size: Requests computed together, this one included.
        queue_s: Seconds in the queue.
        compute_s: Seconds in the model.
        runtime: Name of the runtime that computed it.
    """

    outputs: Tensors
    batch_size: int
    queue_s: float
    compute_s: float
    runtime: str


@dataclass(eq=False, slots=True)
class Request:
    """One request on its way.

    Args:
        inputs: Every input of the model.
        rows: Extent of their first axis.
        kind: Requests of an equal kind can be computed together.
        options: The caller's wishes; their deadline is on the clock of `time.monotonic`, as all times here.
        future: Where the caller waits.
        span: The caller's span.
        queued: When it came.
    """

    inputs: Tensors
    rows: int
    kind: object
    options: CallOptions
    future: asyncio.Future[Answer]
    span: Span
    queued: float = field(default_factory=time.monotonic)

    def expired(self) -> bool:
        """Tell whether the deadline has passed."""
        return time.monotonic() >= self.options.deadline


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: its outputs or an error, the requests computed together with it, and when."""

    result: Tensors | Exception
    batch_size: int
    started: float
    finished: float


def compute(run: Run, batch: Sequence[Request]) -> list[Outcome]:
    """Compute a batch and return an outcome for each of its requests, in their order.

    If the batch raises, its requests are tried one by one, so that one bad request does not fail its neighbours; those whose caller has
    gone or whose deadline passed meanwhile are left out. An error in RUNTIME_FAILED is the outcome of all of them at once.
    """
    outcome = _attempt(run, batch)
    if isinstance(outcome.result, RUNTIME_FAILED):
        return [outcome] * len(batch)
    if len(batch) > 1 and isinstance(outcome.result, Exception):
        return [_alone(run, request) for request in batch]
    if isinstance(outcome.result, Exception):
        return [outcome]
    return [Outcome(part, len(batch), outcome.started, outcome.finished) for part in _split(outcome.result, batch)]


def _alone(run: Run, request: Request) -> Outcome:
    if request.future.done() or request.expired():
        now = time.monotonic()
        return Outcome(DeadlineExceededError("the deadline passed before the request was computed"), 0, now, now)
    return _attempt(run, [request])


def _attempt(run: Run, batch: Sequence[Request]) -> Outcome:
    started = time.monotonic()
    result: Tensors | Exception
    try:
        result = run(_stack(batch))
        _check_rows(result, sum(request.rows for request in batch))
    except Exception as error:  # whatever a runtime raises is an answer to these requests, not the end of the thread
        result = error
    return Outcome(result, len(batch), started, time.monotonic())


def _stack(batch: Sequence[Request]) -> Tensors:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([request.inputs[name] for request in batch]) for name in batch[0].inputs}


def _check_rows(outputs: Tensors, rows: int) -> None:
    """A model that drops or adds rows would mix up the answers."""
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise TesseraError(f"the model answered {name} of shape {list(array.shape)} for {rows} rows")


def _split(outputs: Tensors, batch: Sequence[Request]) -> list[Tensors]:
    parts: list[Tensors] = []
    first = 0
    for request in batch:
        parts.append({name: array[first : first + request.rows] for name, array in outputs.items()})
        first += request.rows
    return parts
