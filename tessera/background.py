"""Blocking work that nobody waits for in a hurry, kept from slowing down those who do."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

NICENESS = 10
"""A thread with as much more gets about a tenth of a CPU that others want as well, and all of one that nobody wants."""


async def in_background(work: Callable[[], T], *, niceness: int = NICENESS) -> T:
    """Run blocking work in a thread of its own, at low priority, and return what it returns.

    Threads and processes that the work starts have the same priority for as long as they live. If the caller is cancelled the thread goes
    on to its end; it does not keep the process from ending.

    Args:
        work: What to do.
        niceness: Added to that of the process, 0 to 19.
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
        os.nice(niceness)  # on Linux that is the thread alone
        try:
            result = work()
        except BaseException as error:
            problem = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=run, name="background", daemon=True).start()
    return await done
