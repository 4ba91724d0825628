"""Ctrl-C and SIGTERM as cancellation, so that what was started is stopped in order."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def until_signal(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """Run a coroutine and return its result, or None if SIGINT or SIGTERM cancelled it.

    A second signal ends the process at once; the kernel then ends the processes of its stack.
    """
    task = asyncio.create_task(coroutine)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if task.cancelling():
            os._exit(130)
        task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait([task])
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return None if task.cancelled() else task.result()
