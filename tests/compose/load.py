"""Load on a stack: requests of both runtimes and queued ones, each repeated until it is answered, as a careful caller does."""

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from tessera.api.inference.v1 import queued_pb2
from tessera.client import Client
from tessera.client.queued import FINISHED
from tessera.errors import DeadlineExceededError, ResourceExhaustedError, TesseraError, UnavailableError
from tests.compose.stack import ANSWER_S, PATIENCE_S, Stack, until

T = TypeVar("T")

RUNTIMES = ("onnxruntime", "torchserve")
QUEUED_AT_ONCE = 3
PAUSE_S = 0.02
"""Between two requests of a caller: the load shall show what is lost, not how much the machine bears."""


async def answered(ask: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Return the answer, however often the server has to be asked for it within this time."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return await ask()
        except (UnavailableError, ResourceExhaustedError, DeadlineExceededError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


class Load:
    """Asks while the block runs; leaving it waits for the requests that are under way, and checks that none failed.

    Args:
        stack: Whose inference server is asked.
        model: With puzzle pieces for inputs; its champion is asked.
        piece: An image file.
        inference: Address of the servers that are asked; the published port of the one server by default.
        runtimes: Which are asked for answers.
        patience_s: How long a request that fails is repeated; at 0 nothing may fail that our client does not repeat by itself.

    Attributes:
        answers: Count of answers by kind: each runtime, and `queued`.
        versions: Version and runtime of every answer, in their order.
    """

    def __init__(
        self,
        stack: Stack,
        model: str,
        piece: bytes,
        *,
        inference: str | None = None,
        runtimes: tuple[str, ...] = RUNTIMES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._stack = stack
        self._model = model
        self._piece = piece
        self._addresses = {"inference": inference} if inference else {}
        self._runtimes = runtimes
        self._patience_s = patience_s
        self._stop = threading.Event()
        self._failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self.versions: list[tuple[int, str]] = []

    def __enter__(self) -> Self:
        self._callers = self._stack.begin(self._ask())
        try:
            self.go_on()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._end()
        if error is None:
            assert not self._failures, self._failures

    def _end(self) -> None:
        self._stop.set()
        self._callers.result(ANSWER_S)

    def go_on(self, count: int = 3) -> None:
        """Wait until there are this many more answers of every kind."""
        wanted = {kind: self.answers[kind] + count for kind in (*self._runtimes, "queued")}
        self.until(lambda: all(self.answers[kind] >= number for kind, number in wanted.items()), f"no {count} more answers of every kind")

    def until(self, condition: Callable[[], object], otherwise: str) -> None:
        """Wait until the condition holds; fail at once with a request that fails."""
        until(lambda: self._failures or condition(), otherwise)
        assert not self._failures, self._failures

    async def _ask(self) -> None:
        async with self._stack.client(**self._addresses) as client:
            callers = [self._repeat(lambda runtime=runtime: self._predict(client, runtime)) for runtime in self._runtimes]
            await asyncio.gather(*callers, *(self._repeat(lambda: self._queue(client)) for _ in range(QUEUED_AT_ONCE)))

    async def _repeat(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            while not self._stop.is_set():
                await step()
                await asyncio.sleep(PAUSE_S)
        except (TesseraError, AssertionError) as error:
            self._failures.append(f"{type(error).__name__}: {error}")

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await answered(ask, self._patience_s)

    async def _predict(self, client: Client, runtime: str) -> None:
        answer = await self._answered(lambda: client.inference.classify_cell(self._piece, self._model, top_k=1, runtime=runtime))
        assert answer.answered_by.runtime == runtime
        self.versions.append((answer.answered_by.version, runtime))
        self.answers[runtime] += 1

    async def _queue(self, client: Client) -> None:
        inputs = {"image": np.zeros((4, 3, 64, 64), np.float32)}
        key = uuid.uuid4().hex
        submitted = await self._answered(lambda: client.queued.submit(inputs, self._model, idempotency_key=key))
        ended = await self._answered(lambda: _end_of(client, submitted.inference.id))
        assert ended.state == queued_pb2.INFERENCE_STATE_SUCCEEDED, ended.error
        self.answers["queued"] += 1


async def _end_of(client: Client, inference_id: str) -> queued_pb2.Inference:
    async for inference in client.queued.watch(inference_id):
        if inference.state in FINISHED:
            return inference
    raise UnavailableError("the stream ended early")
