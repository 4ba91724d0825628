"""Reconstructs the scan of one request, as those are reconstructed that are waited for."""

import asyncio
from pathlib import Path

import numpy as np

from services.inference.options import CallOptions
from services.inference.ptychography import listener
from services.inference.ptychography.plan import Plan, parse_plan
from services.inference.ptychography.reconstructing import Reconstructor
from services.inference.ptychography.result import Result
from services.inference.ptychography.stored import StoredScan
from services.inference.queued.progress import Progress
from tessera.api.inference.v1.ptychography_pb2 import SubmitReconstructionRequest
from tessera.api.inference.v1.queued_pb2 import ReconstructionStatus
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.blob_files import disk_errors
from tessera.tensor_files import dump_tensors


class Reconstructions:
    """Computes requests for the reconstruction of a scan.

    Args:
        reconstructor: Reconstructs.
    """

    def __init__(self, reconstructor: Reconstructor) -> None:
        self._reconstructor = reconstructor

    async def compute(
        self, spec: SubmitReconstructionRequest, options: CallOptions, inputs: Path, outputs: Path, progress: Progress
    ) -> AnsweredBy:
        """Reconstruct a scan and write what came out to a file.

        Args:
            spec: Of the request.
            options: With the deadline of the whole.
            inputs: The file of the scan, see `SubmitReconstructionRequest.scan`.
            outputs: The file to make, with the tensors of `ReconstructionPart` and `corner`.
            progress: Is told how far it is.

        Returns:
            Who answered for the model that began.

        Raises:
            InvalidArgumentError: The file is no scan, or not one for the plan.
            TesseraError: See `Reconstructor.reconstruct`.
        """
        plan = parse_plan(spec.plan)
        with await asyncio.to_thread(StoredScan, inputs) as scan:
            result = await self._reconstructor.reconstruct(plan, options, scan, _Teller(plan, progress))
        await asyncio.to_thread(_write, outputs, result)
        progress.reconstruction = ReconstructionStatus(
            frames=len(result.positions),
            iteration=result.iterations,
            fourier_error=result.fourier_error,
            corner=result.corner,
            answered_by=result.answered_by,
        )
        return result.answered_by[0]


class _Teller:
    """Tells a request how far its reconstruction is.

    Args:
        plan: How many passes there may be.
        progress: To be written.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress

    async def progressed(self, progress: listener.Progress, see: listener.See) -> None:
        """Write down where it stands."""
        refined = self._plan.refine_with is not None
        seen_by_network = refined or progress.frames_done > 0
        passes = int(seen_by_network) + (self._plan.iterations if refined or not seen_by_network else 0)
        self._progress.rows = progress.frames * passes
        self._progress.rows_done = progress.frames_done + progress.frames * progress.iteration
        self._progress.reconstruction = ReconstructionStatus(  # a new one: a thread may be reading the one before
            frames=progress.frames,
            iteration=progress.iteration,
            fourier_error=progress.fourier_error if progress.iteration else None,
        )


def _write(path: Path, result: Result) -> None:
    tensors = result.tensors() | {"corner": np.asarray(result.corner, np.float64)}
    with disk_errors():
        path.write_bytes(dump_tensors(tensors))
