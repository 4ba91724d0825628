"""A small server that "reconstructs" whatever scan comes, at once or queued: real gRPC, and an object that was agreed before."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.api.inference.v1 import ptychography_pb2_grpc, queued_pb2, queued_pb2_grpc
from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.scan import Scan
from tessera.tensors import to_proto

ROWS, COLUMNS = np.indices((64, 80))
OBJECT = ((1 + 0.3 * np.sin(ROWS / 3)) * np.exp(0.7j * np.sin(COLUMNS / 4))).astype(np.complex64)
CORNER = (3.0, 5.0)
ERRORS = np.array([0.2, 0.1, 0.05], np.float32)


class FakePtychography(ptychography_pb2_grpc.PtychographyServiceServicer, queued_pb2_grpc.QueuedInferenceServiceServicer):
    """Answers `OBJECT` with its corner at `CORNER`, whatever frames come; two passes, if the plan has an engine to refine with."""

    def __init__(self) -> None:
        self.plans: list[pb.ReconstructionPlan] = []
        self.frames: list[int] = []
        self.runtime = "torchserve"
        self.refusal = ""

    def Reconstruct(self, requests: Iterator[pb.ReconstructRequest], context: Any) -> Iterator[pb.ReconstructResponse]:
        plan = next(requests).start.plan
        self.plans.append(plan)
        if self.refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.refusal)
        frames = 0
        for request in requests:
            frames += request.frames.positions.shape[0]
            yield pb.ReconstructResponse(progress=pb.ReconstructionProgress(frames=frames))
        self.frames.append(frames)
        yield pb.ReconstructResponse(progress=pb.ReconstructionProgress(frames=frames, frames_done=frames))
        yield pb.ReconstructResponse(preview=pb.ReconstructionPreview(frames=frames, amplitude=_png(50), phase=_png(200)))
        for number, error in enumerate(ERRORS[1:] if plan.HasField("refine_with") else (), start=1):
            yield pb.ReconstructResponse(progress=pb.ReconstructionProgress(frames=frames, iteration=number, fourier_error=float(error)))
        for name, array in self._tensors(plan, frames).items():
            yield pb.ReconstructResponse(part=pb.ReconstructionPart(name=name, shape=array.shape, data=array.tobytes()))
        status = self._status(plan, frames)
        yield pb.ReconstructResponse(
            result=pb.ReconstructionResult(
                frames=frames,
                iterations=status.iteration,
                fourier_error=status.fourier_error,
                corner=CORNER,
                answered_by=status.answered_by,
            )
        )

    def SubmitReconstruction(self, request: Any, context: Any) -> Any:
        self.plans.append(request.plan)
        return pb.SubmitReconstructionResponse(inference=queued_pb2.Inference(id="r1"), created=True)

    def WatchInference(self, request: Any, context: Any) -> Iterator[Any]:
        for state in (queued_pb2.INFERENCE_STATE_RUNNING, queued_pb2.INFERENCE_STATE_SUCCEEDED):
            inference = queued_pb2.Inference(id=request.id, state=state, reconstruction=self._status(self.plans[-1], 42))
            inference.start_time.FromSeconds(100)
            inference.finish_time.FromSeconds(103)
            yield queued_pb2.WatchInferenceResponse(inference=inference)

    def GetResult(self, request: Any, context: Any) -> Any:
        tensors = self._tensors(self.plans[-1], 42)
        return queued_pb2.GetResultResponse(
            tensors=queued_pb2.NamedTensors(tensors={name: to_proto(array) for name, array in tensors.items()})
        )

    def _tensors(self, plan: pb.ReconstructionPlan, frames: int) -> dict[str, np.ndarray]:
        return {
            "amplitude": np.abs(OBJECT),
            "phase": np.angle(OBJECT),
            "weight": np.ones(OBJECT.shape, np.float32),
            "positions": np.zeros((frames, 2), np.float32),
            "probe": np.ones((1, 2, 16, 16), np.float32),
            "errors": ERRORS if plan.HasField("refine_with") else ERRORS[:1],
        }

    def _status(self, plan: pb.ReconstructionPlan, frames: int) -> queued_pb2.ReconstructionStatus:
        refined = plan.HasField("refine_with")
        status = queued_pb2.ReconstructionStatus(
            frames=frames, iteration=2 * refined, fourier_error=0.05 if refined else 0.2, corner=CORNER
        )
        for selector in (plan.model, plan.refine_with) if refined else (plan.model,):
            status.answered_by.add(model=selector.model, version=selector.version or 7, runtime=self.runtime)
        return status


def write_small_scan(path: Path, *, truth: bool = True) -> None:
    """Write 42 frames of 16 x 16 pixels, all over where `OBJECT` lies, with it as their truth or with none."""
    seen = np.zeros((5 + 64, 3 + 80), np.complex64)
    seen[5:, 3:] = OBJECT
    positions = np.stack(np.meshgrid(np.linspace(10, 75, 7), np.linspace(12, 62, 6)), axis=-1).reshape(-1, 2)
    amplitudes = np.random.default_rng(0).random((42, 16, 16), np.float32)
    write_scan(path, Scan(amplitudes, positions, np.ones((1, 16, 16), np.complex64), seen if truth else None))


def _png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), grey).save(file, "PNG")
    return file.getvalue()
