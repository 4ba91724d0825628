"""Jobs as a stream: the job as it stands, then every change, until it has ended."""

import asyncio
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from services.trainer.jobs import Jobs
from services.trainer.tables import ENDED, State
from tessera.api.trainer.v1 import trainer_pb2 as pb

POLL_S = 1.0
"""Changes made by another replica of the trainer are seen within this time, seconds."""


class JobWatch:
    """Tells whoever watches a job that it has changed.

    Args:
        jobs: Where to read a job.
        poll_s: A watched job is read at least this often, seconds.
    """

    def __init__(self, jobs: Jobs, *, poll_s: float = POLL_S) -> None:
        self._jobs = jobs
        self._poll_s = poll_s
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # kept by those who wait

    def tell(self, job_id: str) -> None:
        """Wake whoever watches a job; call it on the event loop after every change."""
        if change := self._changes.pop(job_id, None):
            change.set()

    async def watch(self, job_id: str) -> AsyncIterator[pb.Job]:
        """Yield a job now and after every change; the last one has ended. Raises NotFoundError."""
        seen: pb.Job | None = None
        while True:
            change = self._changes.setdefault(job_id, asyncio.Event())  # before the read, so that no change falls between
            job = await asyncio.to_thread(self._jobs.get, job_id)
            if job != seen:
                yield job
                seen = job
            if State(job.state) in ENDED:
                return
            try:
                async with asyncio.timeout(self._poll_s):
                    await change.wait()
            except TimeoutError:
                continue
