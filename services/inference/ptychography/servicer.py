"""PtychographyService over gRPC: scans come in as streams or from the store, progress, previews and results go out."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from services.inference.options import CallOptions, call_options
from services.inference.ptychography.intake import Intake, Requests
from services.inference.ptychography.metrics import RUNNING
from services.inference.ptychography.plan import parse_plan
from services.inference.ptychography.reconstructing import Reconstructor
from services.inference.ptychography.result import Result
from services.inference.ptychography.source import Source
from services.inference.ptychography.spool import Spool
from services.inference.ptychography.stored import StoredScan
from services.inference.ptychography.teller import Teller
from services.inference.queued.servicer import Desk, submit_reconstruction
from services.inference.queued.store import Store
from services.inference.settings import ReconstructionSettings
from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2_grpc import PtychographyServiceServicer, add_PtychographyServiceServicer_to_server
from tessera.api.inference.v1.queued_pb2 import TensorsBlob
from tessera.blob_files import BlobRef
from tessera.errors import InvalidArgumentError, ResourceExhaustedError
from tessera.rpc.auth import Role
from tessera.rpc.interceptors.base import see_through
from tessera.rpc.server import Service
from tessera.times import timedelta_of

DEFAULT_PREVIEW_S = 2.0
RETRY_S = 1.0
"""When a caller should come again who was one too many."""


Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Workshop:
    """What the servicer works with.

    Attributes:
        reconstructor: Reconstructs.
        store: Scans in the registry.
        directory: Where the frames of streams lie.
        settings: Limits.
    """

    reconstructor: Reconstructor
    store: Store
    directory: Path
    settings: ReconstructionSettings


class PtychographyServicer(PtychographyServiceServicer):
    """Reconstructs scans.

    Args:
        workshop: What it works with.
        desk: Of queued inference; None on a server without a queue.
    """

    def __init__(self, workshop: Workshop, desk: Desk | None) -> None:
        self._workshop = workshop
        self._desk = desk
        self._running = 0

    async def Reconstruct(  # type: ignore[override]  # noqa: N802 - its name in the API; generated code knows generators alone
        self, requests: Requests, context: Context
    ) -> None:
        """Reconstruct a scan. It writes the answers itself, for they come from several tasks."""
        options = call_options(context)
        with self._place():
            intake = Intake(requests, self._workshop.settings.idle_s)
            start = await intake.start()
            teller = Teller(lambda response: see_through(context.write(response)), _preview_s(start))
            await teller.answer(await self._reconstruct(start, intake, options, teller))

    async def SubmitReconstruction(  # noqa: N802 - its name in the API
        self, request: pb.SubmitReconstructionRequest, context: Context
    ) -> pb.SubmitReconstructionResponse:
        """Queue a reconstruction."""
        return await submit_reconstruction(self._desk, request, context)

    async def _reconstruct(self, start: pb.ReconstructionStart, intake: Intake, options: CallOptions, teller: Teller) -> Result:
        """Reconstruct the scan that `start` names, or the one that comes in."""
        work = partial(self._workshop.reconstructor.reconstruct, parse_plan(start.plan, "start.plan"), options)
        if start.HasField("scan"):
            async with self._stored(start.scan) as scan:
                return await _beside(work(scan, teller), intake.nothing())
        with Spool(self._workshop.directory, self._workshop.settings.max_scan_bytes) as spool:
            return await _beside(work(spool, teller), intake.frames_into(spool), teller.watch(lambda: spool.frames))

    @asynccontextmanager
    async def _stored(self, blob: TensorsBlob) -> AsyncIterator[Source]:
        """Yield a scan of the store, which is here until the block ends."""
        store = self._workshop.store
        await asyncio.to_thread(store.remove_leftovers)
        with store.folder() as folder:
            file = folder / "scan.safetensors"
            await store.download(BlobRef(blob.sha256, blob.size_bytes), file)
            with await asyncio.to_thread(StoredScan, file, "start.scan") as scan:
                yield scan

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a reconstruction; ResourceExhaustedError if there are as many as there may be."""
        most = self._workshop.settings.at_once
        if self._running >= most:
            message = f"{self._running} reconstructions are at work, the most that this server does at once; queue it, or come again"
            raise ResourceExhaustedError(message, retry_after_s=RETRY_S)
        self._running += 1
        try:
            with RUNNING.track_inprogress():
                yield
        finally:
            self._running -= 1


async def _beside(work: Coroutine[Any, Any, Result], *others: Coroutine[Any, Any, None]) -> Result:
    """Return what some work returns while others run beside it, which end with it; whoever fails ends all."""
    try:
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(other) for other in others]
            result = await work
            for task in beside:
                task.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return result


def _preview_s(start: pb.ReconstructionStart) -> float:
    if not start.HasField("preview_interval"):
        return DEFAULT_PREVIEW_S
    seconds = timedelta_of(start.preview_interval, "start.preview_interval").total_seconds()
    if seconds < 0:
        raise InvalidArgumentError(f"{seconds:g} s is less than nothing; 0 turns previews off", field="start.preview_interval")
    return seconds


def ptychography_service(workshop: Workshop, desk: Desk | None) -> Service:
    """Return the gRPC service; without a desk it does not queue."""
    roles = {"Reconstruct": Role.READER, "SubmitReconstruction": Role.READER}
    descriptor = pb.DESCRIPTOR.services_by_name["PtychographyService"]
    return Service(add_PtychographyServiceServicer_to_server, PtychographyServicer(workshop, desk), descriptor, roles)
