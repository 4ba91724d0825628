"""Ptychography: scans go in, while they are recorded or from a file, progress, previews and at last the object come out."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import grpc

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2_grpc import PtychographyServiceStub
from tessera.blob_files import BlobRef
from tessera.client.calls import selector
from tessera.client.conversation import converse
from tessera.client.wishes import Priority, metadata
from tessera.tensors import Array, to_proto
from tessera.times import to_duration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tessera.api.inference.v1.ptychography_pb2_grpc import PtychographyServiceAsyncStub

PREVIEW_S = 2.0
"""Least time between two previews, seconds."""
MOST_FRAMES = 4096
"""Of one message."""
MESSAGE_OVERHEAD = 4096
"""Bytes of a message that are no frames, at the most."""


class Frames(NamedTuple):
    """Some frames of a scan, any number.

    Attributes:
        patterns: (k, N, N), zero frequency in the centre: amplitudes, float32, or with `counts` counts, uint8, uint16, uint32, int32 or
            float32.
        positions: (k, 2), (x, y) in pixels.
        counts: Whether the patterns are counts.
    """

    patterns: Array
    positions: Array
    counts: bool = False


@dataclass(frozen=True)
class Reconstruction:
    """The result.

    Attributes:
        tensors: By name, float32, as `ReconstructionPart` in the API describes them: amplitude, phase, weight, probe, positions, errors.
        summary: Frames, passes, Fourier error, corner and which versions answered.
    """

    tensors: Mapping[str, "NDArray[np.float32]"]
    summary: pb.ReconstructionResult


Event = pb.ReconstructionProgress | pb.ReconstructionPreview | Reconstruction


def reconstruction_plan(
    model: str,
    *,
    version: int | None = None,
    alias: str | None = None,
    refine_with: str = "",
    refine_version: int | None = None,
    refine_alias: str | None = None,
    iterations: int = 0,
    target_fourier_error: float = 0.0,
    weighting: pb.ReconstructionWeighting.ValueType = pb.RECONSTRUCTION_WEIGHTING_UNSPECIFIED,
    crop: int = 0,
    fixed_probe: bool = False,
    correct_positions: bool = False,
    batch: int = 0,
    seed: int = 0,
    probe: "NDArray[np.complex64] | None" = None,
) -> pb.ReconstructionPlan:
    """Return the plan of a reconstruction, for `PtychographyClient.reconstruct` and for the queue.

    Args:
        model: A network or an engine.
        version: An exact version; or
        alias: an alias. The alias `champion` if neither is given.
        refine_with: An engine that goes on from what `model` found; none if empty.
        refine_version: Its version; or
        refine_alias: its alias.
        iterations: Most passes of an engine over the scan, 1 to 10000; 0 means 50.
        target_fourier_error: An engine stops as soon as the error is at most this.
        weighting: How patches of a network are merged.
        crop: Central pixels of each patch of a network that are merged, even; 0 means half of it.
        fixed_probe: Leave the probe as it is.
        correct_positions: Improve the positions too.
        batch: Frames that an engine takes at a time, 1 to 1024; 0 means its own default.
        seed: Of the order in which an engine takes the frames.
        probe: (modes, N, N) or (N, N); None: that of the scan, or the one that the network was trained with.
    """
    from tessera.tasks.ptychography.signatures import to_channels

    plan = pb.ReconstructionPlan(
        model=selector(model, version, alias),
        refine_with=selector(refine_with, refine_version, refine_alias) if refine_with else None,
        iterations=iterations,
        target_fourier_error=target_fourier_error,
        weighting=weighting,
        crop=crop,
        fixed_probe=fixed_probe,
        correct_positions=correct_positions,
        batch=batch,
        seed=seed,
    )
    if probe is not None:
        plan.probe.CopyFrom(to_proto(to_channels(probe if probe.ndim == 3 else probe[None])))
    return plan


class PtychographyClient:
    """Calls to `PtychographyService`.

    Args:
        channel: From `tessera.rpc.channel.open_channel`; the caller closes it.
        max_message_bytes: Largest message that the server takes.
    """

    def __init__(self, channel: grpc.aio.Channel, max_message_bytes: int) -> None:
        self.stub: PtychographyServiceAsyncStub = PtychographyServiceStub(channel)
        self._max_message_bytes = max_message_bytes

    async def reconstruct(
        self,
        frames: Iterable[Frames] | AsyncIterable[Frames] | BlobRef,
        plan: pb.ReconstructionPlan,
        *,
        preview_interval_s: float = PREVIEW_S,
        timeout_s: float | None = None,
        runtime: str = "",
        priority: Priority = "",
        sticky_key: str = "",
    ) -> AsyncIterator[Event]:
        """Send a scan, and yield progress and previews meanwhile and the result at last.

        Args:
            frames: The scan, in pieces of any size; they are sent as fast as the server takes them. Or a scan in the registry's store.
            plan: From `reconstruction_plan`.
            preview_interval_s: Least time between two previews; 0 turns them off.
            timeout_s: Seconds for the whole; None for as long as it takes.
            runtime: What shall compute, for example `torchserve`; what each version prefers if empty.
            priority: `high`, `normal` or `low`: who is computed first when requests wait.
            sticky_key: Calls with an equal key are answered by the same version during a rollout; at most 256 characters.

        Raises:
            InvalidArgumentError: A value is out of its range, or frames are not fit: other sizes, NaN, negative, positions all equal.
            FailedPreconditionError: A model is no network or engine of this task, or not for frames of this size.
            NotFoundError: No such model, version, alias or scan.
            ResourceExhaustedError: More than the server takes, or it is busy.
            DeadlineExceededError: It took longer than `timeout_s`, or the scan stood still for longer than the server waits.
        """
        start = pb.ReconstructionStart(plan=plan, preview_interval=to_duration(preview_interval_s))
        pieces: AsyncIterator[Frames] = _nothing()
        if isinstance(frames, BlobRef):
            start.scan.sha256, start.scan.size_bytes = frames.sha256, frames.size_bytes
        else:
            pieces = frames.__aiter__() if isinstance(frames, AsyncIterable) else _one_by_one(frames)
        requests = self._requests(start, pieces)
        wishes = metadata(runtime, priority, sticky_key)
        parts: dict[str, _Tensor] = {}
        async with aclosing(converse(self.stub.Reconstruct, requests, timeout_s=timeout_s, metadata=wishes)) as answers:
            async for answer in answers:
                match answer.WhichOneof("message"):
                    case "progress":
                        yield answer.progress
                    case "preview":
                        yield answer.preview
                    case "part":
                        parts.setdefault(answer.part.name, _Tensor(tuple(answer.part.shape))).add(answer.part.data)
                    case "result":
                        yield Reconstruction({name: part.array() for name, part in parts.items()}, answer.result)

    async def _requests(self, start: pb.ReconstructionStart, pieces: AsyncIterator[Frames]) -> AsyncIterator[pb.ReconstructRequest]:
        yield pb.ReconstructRequest(start=start)
        async for frames in pieces:
            each = frames.patterns[0].nbytes + frames.positions[0].nbytes if len(frames.patterns) else 1
            most = max(1, min(MOST_FRAMES, (self._max_message_bytes - MESSAGE_OVERHEAD) // each))
            for first in range(0, len(frames.patterns), most):
                yield await asyncio.to_thread(_message, frames, slice(first, first + most))


class _Tensor:
    """A tensor of the result, of which the parts come one after the other."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> None:
        self._parts.append(data)

    def array(self) -> "NDArray[np.float32]":
        import numpy as np

        return np.frombuffer(b"".join(self._parts), "<f4").astype(np.float32).reshape(self._shape)


def _message(frames: Frames, part: slice) -> pb.ReconstructRequest:
    message = pb.ReconstructionFrames(positions=to_proto(frames.positions[part]))
    (message.counts if frames.counts else message.amplitudes).CopyFrom(to_proto(frames.patterns[part]))
    return pb.ReconstructRequest(frames=message)


async def _one_by_one(pieces: Iterable[Frames]) -> AsyncIterator[Frames]:
    for piece in pieces:
        yield piece


async def _nothing() -> AsyncIterator[Frames]:
    return
    yield
