"""Ways to put load on a server, from one event loop."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc

SAMPLE_EVERY = 16
"""Every such answer is kept and looked at after the measurement; looking at once would slow the load down."""
MAX_OUTSTANDING = 2000
"""More are not sent in an open loop: the load generator would be what is measured. They count as errors."""

Call = Callable[[int], Awaitable[bytes]]
"""Sends request number n and returns the answer as it came; raises grpc.RpcError."""


@dataclass
class Record:
    """What became of the requests of one measurement.

    Args:
        seconds: Latencies of those that were answered.
        samples: Some answers: number of the request and the bytes.
        errors: Others, by status code.
    """

    seconds: list[float] = field(default_factory=list)
    samples: list[tuple[int, bytes]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    async def one(self, call: Call, number: int, began: float) -> None:
        """Send one request and write down what became of it, its latency counted from `began`."""
        try:
            answer = await call(number)
        except grpc.RpcError as error:
            self.errors[error.code().name] += 1
            return
        self.seconds.append(time.perf_counter() - began)
        if len(self.seconds) % SAMPLE_EVERY == 1:
            self.samples.append((number, answer))


async def closed_loop(calls: list[Call], seconds: float) -> Record:
    """Let each client (one call each) send its next request as soon as its last one is answered."""
    record = Record()
    end = time.perf_counter() + seconds

    async def client(number: int, call: Call) -> None:
        while (began := time.perf_counter()) < end:
            await record.one(call, number, began)
            number += 1

    await asyncio.gather(*(client(number, call) for number, call in enumerate(calls)))
    return record


async def open_loop(calls: list[Call], rate: float, seconds: float) -> Record:
    """Send requests at random (Poisson) times, whether or not earlier ones are answered.

    The latency counts from the time at which a request was due, so that one which a busy server or generator delays is not flattered.

    Args:
        calls: Taken in turn.
        rate: Requests a second.
        seconds: How long to send; the answers are waited for.
    """
    record, waiting = Record(), set[asyncio.Task[None]]()
    arrivals = random.Random(1)
    due = time.perf_counter()
    end = due + seconds
    number = 0
    while (due := due + arrivals.expovariate(rate)) < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        number += 1
        if len(waiting) >= MAX_OUTSTANDING:
            record.errors["NOT_SENT"] += 1
            continue
        task = asyncio.create_task(record.one(calls[number % len(calls)], number, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return record
