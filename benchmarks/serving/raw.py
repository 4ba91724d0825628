"""The network alone, in this process, without a server: the most that this machine can compute."""

import threading
import time

import numpy as np

from benchmarks.serving.jobs import Load, Outcome
from benchmarks.serving.network import logits, session, tensors
from benchmarks.serving.processes import machine_busy_s

THREADS = 2


class RawCalls:
    """One session. One caller computes one request at a time; more are two threads, each with batches of half of what the callers bring."""

    def __init__(self) -> None:
        self._session = session()

    def run(self, load: Load, seconds: float) -> Outcome:
        """Compute for so long; the latencies are those of whole batches, counted once for each request in them."""
        threads = min(THREADS, load.clients)
        batch = load.items if load.mode == "batch" else max(1, load.clients // THREADS)
        requests = batch // load.items
        taken: list[list[float]] = [[] for _ in range(threads)]
        wrong = []
        machine, cpu, began = machine_busy_s(), time.process_time(), time.perf_counter()
        workers = [threading.Thread(target=self._work, args=(batch, began + seconds, mine, wrong)) for mine in taken]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        wall_s, own_s = time.perf_counter() - began, time.process_time() - cpu
        latencies = [one for mine in taken for one in mine for _ in range(requests)]
        other_s = max(0.0, machine_busy_s() - machine - own_s)
        return Outcome(wall_s, latencies, checked=threads, wrong=sum(wrong), server_cpu_s=own_s, other_cpu_s=other_s)

    def _work(self, batch: int, end: float, taken: list[float], wrong: list[bool]) -> None:
        pieces = tensors(batch)[0]
        while (began := time.perf_counter()) < end:
            answers = self._session.run(None, {"image": pieces})[0]
            taken.append(time.perf_counter() - began)
        expected = np.resize(logits(), answers.shape)
        wrong.append(not np.allclose(answers, expected, atol=1e-3))
