"""Work in the background disturbs neither the loop, nor others, nor the end of the process."""

import asyncio
import os
import subprocess
import sys
import threading
import weakref

import pytest

from tessera.background import LOW_PRIORITY, NicedThread, in_background
from tests.fixtures.waiting import WAIT_S


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_niced_thread_has_a_priority_of_its_own() -> None:
    before = niceness()
    with NicedThread(LOW_PRIORITY) as thread:
        assert thread.call(niceness) == min(before + LOW_PRIORITY, 19)
        assert thread.call(niceness) == min(before + LOW_PRIORITY, 19)
        assert niceness() == before
        with pytest.raises(ZeroDivisionError):
            thread.call(divmod, 1, 0)
        assert thread.call(divmod, 7, 2) == (3, 1)


def test_a_niced_thread_keeps_nothing_that_it_was_given_and_ends() -> None:
    class Weights:
        pass

    with NicedThread(0) as thread:
        weights = Weights()
        gone = weakref.ref(weights)
        worker = thread.call(lambda _: threading.current_thread(), weights)
        del weights
        thread.call(threading.get_ident)  # the call before is over
        assert gone() is None
    worker.join(30)
    assert not worker.is_alive()


async def test_what_the_work_raises_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_background(lambda: 1 // 0)


async def test_a_caller_that_is_cancelled_does_not_wait_and_the_work_goes_on() -> None:
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert gate.wait(30)
        ended.set()

    caller = asyncio.create_task(in_background(work))
    assert await asyncio.to_thread(begun.wait, 30)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    assert await asyncio.to_thread(ended.wait, 30)


def test_work_that_never_ends_does_not_keep_the_process_alive() -> None:
    program = """
import asyncio, threading
from tessera.background import in_background

async def main():
    begun = threading.Event()
    task = asyncio.create_task(in_background(lambda: (begun.set(), threading.Event().wait())))
    await asyncio.to_thread(begun.wait)
    task.cancel()

asyncio.run(main())
print("ended")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert ended.stdout == "ended\n"
