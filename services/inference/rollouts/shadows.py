"""Copies of requests for a version on trial: computed beside the answer, compared with it, and seen by no caller."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import structlog

from services.inference.calls import Ended
from services.inference.options import CallOptions, Priority
from services.inference.rollouts.differences import Difference, compare
from services.inference.rollouts.metrics import SHADOW_ABSOLUTE, SHADOW_AGREEING, SHADOW_RELATIVE, SHADOW_ROWS, SHADOWS
from services.inference.runtimes.runtime import Tensors
from services.inference.served import ServedModel
from tessera.background import in_background
from tessera.errors import FailedPreconditionError, ResourceExhaustedError, TesseraError

log = structlog.get_logger()

MOST_AT_ONCE = 16
"""Copies of one rollout that are computed or compared at the same time; more are dropped."""
MOST_BYTES = 2**28
"""Most bytes of tensors that they keep in memory meanwhile; what does not fit is dropped."""
DEADLINE_S = 10.0

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Shadows:
    """The copies of one rollout.

    A copy has low priority and is given up after 10 s. What finds no room is dropped: callers come first.

    Args:
        model: The model.
        alias: The alias.
        spawn: Runs a coroutine in the background.
    """

    def __init__(self, model: str, alias: str, spawn: Spawn) -> None:
        self._model = model
        self._alias = alias
        self._spawn = spawn
        self._running = self._bytes = 0
        self.outcomes: Counter[str] = Counter()
        self.rows = self.agreeing = 0
        self.max_abs = 0.0

    def begin(self, candidate: ServedModel, call: Ended) -> None:
        """Compute what a call took with the candidate too, and compare; returns at once and raises nothing."""
        if call.inputs is None or call.answer is None:
            return
        size = sum(array.nbytes for array in (*call.inputs.values(), *call.answer.outputs.values()))
        if self._running >= MOST_AT_ONCE or self._bytes + size > MOST_BYTES:
            self._count("dropped")
            return
        self._running += 1
        self._bytes += size
        candidate.hold()  # now, not when the task begins: it must not be unloaded meanwhile

        def done(_task: asyncio.Task[None]) -> None:
            self._running -= 1
            self._bytes -= size
            candidate.let_go()

        self._spawn(self._compare(candidate, call.inputs, call.answer.outputs)).add_done_callback(done)

    async def _compare(self, candidate: ServedModel, inputs: Tensors, expected: Tensors) -> None:
        options = CallOptions(time.monotonic() + DEADLINE_S, Priority.LOW)
        try:
            answer = await candidate.submit(inputs, options)
            self._measure(await in_background(partial(compare, expected, answer.outputs)))
        except ResourceExhaustedError:
            self._count("dropped")
        except FailedPreconditionError as error:
            if not self.outcomes["incomparable"]:  # the next ones will be like it
                log.warning("a candidate's answers cannot be compared", model=self._model, alias=self._alias, reason=error.message)
            self._count("incomparable")
        except TesseraError:  # what the model raised stands in the log already
            self._count("failed")
        except Exception:
            self._count("failed")
            log.exception("a copy for a candidate failed", model=self._model, alias=self._alias)
        else:
            self._count("compared")

    def _measure(self, differences: Iterable[Difference]) -> None:
        for one in differences:
            SHADOW_ROWS.labels(self._model, one.output).inc(one.rows)
            SHADOW_AGREEING.labels(self._model, one.output).inc(one.agreeing)
            self.rows += one.rows
            self.agreeing += one.agreeing
            if one.max_abs is not None and one.relative is not None:
                SHADOW_ABSOLUTE.labels(self._model, one.output).observe(one.max_abs)
                SHADOW_RELATIVE.labels(self._model, one.output).observe(one.relative)
                self.max_abs = max(self.max_abs, one.max_abs)

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        SHADOWS.labels(self._model, self._alias, outcome).inc()
