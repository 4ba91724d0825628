"""Between gRPC's async streams and the blob store's blocking ones: bytes flow through a thread, a few at a time."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from tessera.errors import CancelledError, DeadlineExceededError

T = TypeVar("T")

DEPTH = 4
"""Chunks (of at most 1 MiB) that wait between the network and the store."""

MAX_TRANSFERS = 32
"""Uploads that move at once, and chunks that are read at once; others wait for their turn."""

MAX_JOBS = 8
"""Versions that are read as a whole at once, to be made or verified, and collections of garbage; others wait for their turn."""

IDLE_S = 60.0
"""An upload whose next bytes do not come within this time is broken off: it holds a thread and space on the disk."""


class Transfers:
    """Moves blobs between async streams and blocking iterators, in constant memory.

    Uploads, downloads, and what reads whole blobs have their own threads each: none keeps another or the database's readers waiting.

    Args:
        idle_s: An upload whose next bytes do not come within this time is broken off, seconds.
    """

    name = "transfers"

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._writers = ThreadPoolExecutor(MAX_TRANSFERS, thread_name_prefix="upload")
        self._readers = ThreadPoolExecutor(MAX_TRANSFERS, thread_name_prefix="download")
        self._jobs = ThreadPoolExecutor(MAX_JOBS, thread_name_prefix="blobs")
        self._collector = ThreadPoolExecutor(1, thread_name_prefix="garbage")

    async def run(self, function: Callable[[], T]) -> T:
        """Run something that reads whole blobs."""
        return await _run(self._jobs, function)

    async def collect(self, function: Callable[[], T]) -> T:
        """Run a collection of garbage: one at a time, and beside what makes versions."""
        return await _run(self._collector, function)

    async def feed(self, consume: Callable[[Iterator[bytes]], None], chunks: AsyncIterator[bytes]) -> None:
        """Run `consume` in a thread on the chunks of an async stream.

        If the stream breaks off, the caller goes away or this is cancelled, the iterator that `consume` reads raises, and this returns
        only after `consume` has cleaned up. If `consume` raises, the rest of the stream is not read.

        Raises:
            DeadlineExceededError: The next chunk did not come in time.
        """
        room = asyncio.Semaphore(DEPTH)
        pipe = _Pipe(asyncio.get_running_loop(), room)
        consuming = asyncio.get_running_loop().run_in_executor(self._writers, consume, pipe.read())
        sending = asyncio.ensure_future(_send(chunks, pipe, room, self._idle_s))
        try:
            await asyncio.wait({consuming, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            pipe.close()
            await asyncio.wait({consuming, sending})
        if not sending.cancelled() and (error := sending.exception()):
            consuming.exception()
            raise error
        consuming.result()

    async def pull(self, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks of a blocking iterator, each read by a thread when it is wanted; the iterator is closed at the end."""
        loop = asyncio.get_running_loop()
        turn = threading.Lock()

        def step() -> bytes | None:
            with turn:
                return next(chunks, None)

        def close() -> None:
            with turn:  # a step that was given up may still be reading
                getattr(chunks, "close", lambda: None)()

        try:
            while (chunk := await loop.run_in_executor(self._readers, step)) is not None:
                yield chunk
        finally:
            self._readers.submit(close)

    async def start(self) -> None:
        """Nothing to do: threads start when they are needed."""

    async def stop(self) -> None:
        """Wait for the threads to end."""
        for pool in (self._writers, self._readers, self._jobs, self._collector):
            await asyncio.to_thread(pool.shutdown)

    async def check(self) -> None:
        """Always ready."""


class _Pipe:
    """Hands chunks to a thread. The thread never waits for the event loop, so it ends even if the loop does not turn any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: asyncio.Semaphore) -> None:
        self._loop = loop
        self._room = room
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._complete = False

    def put(self, chunk: bytes) -> None:
        """Hand over a chunk."""
        self._queue.put(chunk)

    def complete(self) -> None:
        """Say that all chunks have been handed over."""
        self._complete = True
        self._queue.put(None)

    def close(self) -> None:
        """Wake the reader, which finds the stream broken off unless it was complete."""
        self._queue.put(None)

    def read(self) -> Iterator[bytes]:
        """Yield what is handed over; in the thread."""
        while (chunk := self._queue.get()) is not None:
            yield chunk
            self._loop.call_soon_threadsafe(self._room.release)
        if not self._complete:
            raise CancelledError("the upload was broken off")


async def _send(chunks: AsyncIterator[bytes], pipe: _Pipe, room: asyncio.Semaphore, idle_s: float) -> None:
    """Hand over what comes; the time that the store takes to make room does not count."""
    while (chunk := await _next(chunks, idle_s)) is not None:
        await room.acquire()
        pipe.put(chunk)
    pipe.complete()


async def _next(chunks: AsyncIterator[bytes], idle_s: float) -> bytes | None:
    """Return the next chunk, None after the last."""
    try:
        async with asyncio.timeout(idle_s):
            return await anext(chunks, None)
    except TimeoutError:
        raise DeadlineExceededError(f"no bytes of the upload came for {idle_s:g} s; send it again from the beginning") from None


async def _run(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, function)
