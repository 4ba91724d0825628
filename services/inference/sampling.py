"""Keeps what some requests took and gave, for people who want to see what a model meets in real life; off unless an operator asks for it.

A sample is taken when its call ends, and stored in the background (see `tessera.samples`). It never delays or fails a call: what finds no
room is dropped and counted.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Counter
from safetensors.numpy import save

from services.inference.calls import Ended
from services.inference.settings import SamplingSettings
from tessera.client.registry import RegistryClient
from tessera.errors import TesseraError
from tessera.samples import SampleName
from tessera.strings import pack

log = structlog.get_logger()

QUEUED_SAMPLES = 64
QUEUED_BYTES = 64 * 2**20
"""Most that waits to be stored."""
HOUR_S = 3600.0

SAMPLES = Counter("inference_samples", "Sampled requests, by what became of the sample", ["outcome"])
SAMPLED_BYTES = Counter("inference_sampled_bytes", "Bytes of the samples that were stored")


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample that waits to be stored."""

    name: SampleName
    tensors: Mapping[str, NDArray[Any]]
    facts: dict[str, str]
    size_bytes: int

    def encoded(self) -> bytes:
        """Return the file. Strings, which safetensors does not know, become bytes as the Open Inference Protocol writes them."""
        strings = {name: array for name, array in self.tensors.items() if array.dtype == np.object_}
        shapes = {name: json.dumps(array.shape) for name, array in strings.items()}
        packed = {name: np.frombuffer(pack(array), np.uint8) for name, array in strings.items()}
        arrays = {name: np.ascontiguousarray(array) for name, array in self.tensors.items() if name not in strings}
        return save(arrays | packed, self.facts | shapes)


class Sampler:
    """A watcher of calls, see `services.inference.calls.Watcher`.

    Args:
        registry: Where samples are stored; its token needs the role publisher.
        settings: Which calls, and how much of them.
    """

    name = "sampler"

    def __init__(self, registry: RegistryClient, settings: SamplingSettings) -> None:
        self._registry = registry
        self._settings = settings
        self._models = frozenset(settings.models)
        self._queue: asyncio.Queue[_Sample] = asyncio.Queue(QUEUED_SAMPLES)
        self._queued_bytes = 0
        self._hour = 0
        self._spent_bytes = 0
        self._storing: asyncio.Task[None] | None = None

    def __call__(self, ended: Ended) -> None:
        """Take a sample of a call if it is its turn."""
        if not ended.inputs or (self._models and ended.served.model not in self._models):
            return
        if random.random() >= self._settings.ratio:  # noqa: S311 - nobody gains by guessing whose turn it is
            return
        sample = _sample(ended)
        if self._queue.full() or self._queued_bytes + sample.size_bytes > QUEUED_BYTES:
            SAMPLES.labels("queue_full").inc()
        elif not self._afford(sample.size_bytes):
            SAMPLES.labels("over_budget").inc()
        else:
            self._queued_bytes += sample.size_bytes
            self._queue.put_nowait(sample)

    async def start(self) -> None:
        """Begin to store what comes."""
        self._storing = asyncio.create_task(self._store_all())

    async def stop(self) -> None:
        """End. What waits is dropped, as a server that stops has no time for it."""
        assert self._storing, "stop comes after start"
        self._storing.cancel()
        await asyncio.gather(self._storing, return_exceptions=True)
        SAMPLES.labels("stopped").inc(self._queue.qsize())

    async def check(self) -> None:
        """Raise nothing: a server without samples is ready all the same."""

    def _afford(self, size_bytes: int) -> bool:
        """Spend some of this hour's bytes, if there are as many left."""
        hour = int(time.monotonic() / HOUR_S)
        if hour != self._hour:
            self._hour, self._spent_bytes = hour, 0
        if self._spent_bytes + size_bytes > self._settings.bytes_per_hour:
            return False
        self._spent_bytes += size_bytes
        return True

    async def _store_all(self) -> None:
        while True:
            sample = await self._queue.get()
            try:
                await self._store(sample)
            except Exception as error:  # whatever it is, the server goes on
                SAMPLES.labels("failed").inc()
                reason = error.message if isinstance(error, TesseraError) else repr(error)
                log.warning("a sample could not be stored", model=sample.name.model, reason=reason)
            else:
                SAMPLES.labels("stored").inc()
                SAMPLED_BYTES.inc(sample.size_bytes)
            finally:
                self._queued_bytes -= sample.size_bytes

    async def _store(self, sample: _Sample) -> None:
        data = await asyncio.to_thread(sample.encoded)
        blob = await self._registry.upload_bytes(data)
        await self._registry.acquire_lease(sample.name.holder(), self._settings.ttl_s, blob_sha256=blob.sha256)


def _sample(ended: Ended) -> _Sample:
    """Return what is kept of a call: nothing that says who called."""
    served, answer = ended.served, ended.answer
    name = SampleName(served.model, served.version, datetime.now(UTC), ended.trace_id)
    tensors: dict[str, NDArray[Any]] = {f"inputs.{key}": array for key, array in (ended.inputs or {}).items()}
    facts = {
        "model": served.model,
        "version": str(served.version),
        "digest": served.digest,
        "time": name.time.isoformat(),
        "trace_id": ended.trace_id,
        "priority": ended.options.priority.name.lower(),
        "code": ended.code,
        "seconds": f"{ended.seconds:.6f}",
    }
    if answer:
        tensors |= {f"outputs.{key}": array for key, array in answer.outputs.items()}
        facts |= {"runtime": answer.runtime, "batch_size": str(answer.batch_size)}
        facts |= {"queue_seconds": f"{answer.queue_s:.6f}", "compute_seconds": f"{answer.compute_s:.6f}"}
    return _Sample(name, tensors, facts, sum(_size(array) for array in tensors.values()))


def _size(array: NDArray[Any]) -> int:
    return sum(len(item) for item in array.flat) if array.dtype == np.object_ else array.nbytes
