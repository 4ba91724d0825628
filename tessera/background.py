"""Blocking work that nobody waits for in a hurry, kept from slowing down those who do."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LOW_PRIORITY = 10
"""Niceness of a thread that gets about a tenth of a CPU that others want as well, and all of one that nobody wants."""


async def in_background(work: Callable[[], T]) -> T:
    """Run blocking work in a thread of its own, in the caller's context (its trace), and return what it returns.

    If the caller is cancelled the thread goes on to its end; unlike one of `asyncio.to_thread` it neither takes up the place of other work
    nor keeps the process from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():  # the caller has gone
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error it is a T

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:
            problem = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=copy_context().run, args=(run,), name="background", daemon=True).start()
    return await done


class NicedThread:
    """A thread of another priority that works for one that waits; a context manager that ends it.

    For work outside the interpreter only. A thread of low priority that holds the interpreter's lock when it has to leave its CPU to others
    stops the whole process until its turn comes again, so what is written in Python stays with the thread that waits.

    Threads and processes that the work starts have the same priority for as long as they live: it cannot be raised again.

    Args:
        niceness: Added to that of the process, 0 to 19.
    """

    def __init__(self, niceness: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._run, args=(niceness,), name="niced", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the work returns, and raise what it raises; it runs in the caller's context."""
        done: Future[T] = Future()
        context = copy_context()

        def run() -> None:
            try:
                done.set_result(context.run(work, *args, **kwargs))
            except BaseException as error:
                done.set_exception(error)

        self._calls.put(run)
        return done.result()

    def _run(self, niceness: int) -> None:
        os.nice(niceness)  # on Linux that is the thread alone
        while run := self._calls.get():
            run()
            del run  # and with it what the work has taken and given
