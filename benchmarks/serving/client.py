"""The load generator, a process of its own: `python -m benchmarks.serving.client` reads jobs from its standard input, a line each.

Requests are serialized before a measurement and answers parsed after it, so that the generator takes as little of the CPU, which it shares
with the server, as Python allows.
"""

import asyncio
import json
import selectors
import sys
import time
from dataclasses import asdict

import grpc
import numpy as np

from benchmarks.serving.jobs import Job, Load, Outcome, Target
from benchmarks.serving.loops import Call, Record, closed_loop, open_loop
from benchmarks.serving.processes import machine_busy_s, tree_cpu_s
from benchmarks.serving.protocols import PROTOCOLS, Protocol

MAX_CHANNELS = 8
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to an address share one connection
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
]


class Generator:
    """Keeps the connections and the requests of earlier jobs: every target is measured several times."""

    def __init__(self) -> None:
        self._channels: dict[tuple[str, int], list[grpc.aio.Channel]] = {}
        self._asked: dict[tuple[str, str, int], tuple[Protocol, list[bytes]]] = {}

    async def run(self, job: Job) -> Outcome:
        """Do one job."""
        protocol, requests = self._protocol(job.target, job.load.items)
        calls = self._calls(protocol.method, requests, job)
        await _put(calls, job.load, job.warm_up_s)
        server, client, machine, began = tree_cpu_s(job.target.pid), time.process_time(), machine_busy_s(), time.perf_counter()
        record = await _put(calls, job.load, job.seconds)
        wall_s, client_s = time.perf_counter() - began, time.process_time() - client
        server_s, machine_s = tree_cpu_s(job.target.pid) - server, machine_busy_s() - machine
        phases = [phases for _, data in record.samples if (phases := protocol.phases_ms(data))]
        return Outcome(
            wall_s=wall_s,
            seconds=record.seconds,
            errors=dict(record.errors),
            checked=len(record.samples),
            wrong=sum(not protocol.is_right(number, data) for number, data in record.samples),
            server_cpu_s=server_s,
            client_cpu_s=client_s,
            other_cpu_s=max(0.0, machine_s - server_s - client_s),
            phases_ms={phase: float(np.mean([one[phase] for one in phases])) for phase in (phases[0] if phases else ())},
        )

    def _protocol(self, target: Target, items: int) -> tuple[Protocol, list[bytes]]:
        key = (target.protocol, target.model, items)
        if key not in self._asked:
            protocol = PROTOCOLS[target.protocol](target.model, items)
            self._asked[key] = (protocol, protocol.requests())
        return self._asked[key]

    def _calls(self, method: str, requests: list[bytes], job: Job) -> list[Call]:
        count = min(job.load.clients, MAX_CHANNELS)
        key = (job.target.address, count)
        if key not in self._channels:
            self._channels[key] = [grpc.aio.insecure_channel(job.target.address, OPTIONS) for _ in range(count)]
        stubs = [channel.unary_unary(method) for channel in self._channels[key]]

        def call(stub: grpc.aio.UnaryUnaryMultiCallable) -> Call:
            return lambda number: stub(requests[number % len(requests)], metadata=job.target.metadata, timeout=job.load.timeout_s)

        return [call(stubs[number % count]) for number in range(job.load.clients)]


async def _put(calls: list[Call], load: Load, seconds: float) -> Record:
    return await (open_loop(calls, load.rate, seconds) if load.rate else closed_loop(calls, seconds))


async def main() -> None:
    """Do job after job until the pipe is closed."""
    generator = Generator()
    while line := await asyncio.to_thread(sys.stdin.readline):
        job = json.loads(line)
        target = Target(**(job["target"] | {"metadata": tuple(map(tuple, job["target"]["metadata"]))}))
        outcome = await generator.run(Job(target, Load(**job["load"]), job["seconds"], job["warm_up_s"]))
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    # The timers of select() are exact to microseconds; those of epoll() in this Python round up to a millisecond, late for an open loop.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main())
