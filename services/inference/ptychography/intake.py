"""What comes in over the stream of a reconstruction: its start, then frames, checked before anything is computed."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray

from services.inference.ptychography.metrics import FRAMES
from services.inference.ptychography.spool import Spool
from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.errors import DeadlineExceededError, InvalidArgumentError
from tessera.tasks.ptychography.centring import check_centred
from tessera.tasks.ptychography.validation import (
    MAX_SIZE,
    MIN_SIZE,
    check_amplitudes_not_counts,
    check_counts,
    check_finite_positions,
    check_frames,
)
from tessera.tensors import Array, from_proto

MOST_FRAMES = 4096
"""Of one message."""
COUNTS = frozenset(np.dtype(kind) for kind in (np.uint8, np.uint16, np.uint32, np.int32, np.float32))
COORDINATES = frozenset(np.dtype(kind) for kind in (np.float32, np.float64))

Requests = AsyncIterator[pb.ReconstructRequest]


class Intake:
    """Reads the requests of one stream.

    Args:
        requests: The stream.
        idle_s: It may stand still for so long, seconds.
    """

    def __init__(self, requests: Requests, idle_s: float) -> None:
        self._requests = requests
        self._idle_s = idle_s

    async def start(self) -> pb.ReconstructionStart:
        """Return what opens the stream.

        Raises:
            InvalidArgumentError: It is something else, or nothing.
            DeadlineExceededError: It does not come.
        """
        request = await self._next()
        if request is None or request.WhichOneof("message") != "start":
            came = "nothing" if request is None else request.WhichOneof("message") or "an empty request"
            raise InvalidArgumentError(f"{came} came; the first request of the stream is start", field="start")
        return request.start

    async def frames_into(self, spool: Spool) -> None:
        """Put all frames that come into a spool, and end it.

        Raises:
            InvalidArgumentError: What comes is not fit, or all of it together is no scan.
            ResourceExhaustedError: See `Spool.append`.
            DeadlineExceededError: Nothing comes any more.
        """
        while (request := await self._next()) is not None:
            if request.WhichOneof("message") != "frames":
                came = request.WhichOneof("message") or "an empty request"
                raise InvalidArgumentError(f"{came} came after start; frames are needed", field=request.WhichOneof("message") or "frames")
            amplitudes, positions = await asyncio.to_thread(read_frames, request.frames, spool.size, spool.frames)
            await spool.append(amplitudes, positions)
            FRAMES.inc(len(amplitudes))
        await spool.end()

    async def nothing(self) -> None:
        """Wait for the end of the stream of a scan that is in the store. Raises InvalidArgumentError if anything comes."""
        async for _ in self._requests:
            raise InvalidArgumentError("start names a scan in the store, so nothing may follow", field="frames")

    async def _next(self) -> pb.ReconstructRequest | None:
        """Return the next request, None after the last."""
        try:
            async with asyncio.timeout(self._idle_s):
                return await anext(self._requests, None)
        except TimeoutError:
            message = f"nothing came for {self._idle_s:g} s, and the stream was not ended; send frames, or end it"
            raise DeadlineExceededError(message, field="frames") from None


def read_frames(message: pb.ReconstructionFrames, size: int, first: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the amplitudes (k, N, N) and the positions (k, 2) of a message.

    Args:
        message: The message.
        size: N of the frames before; 0 if there was none.
        first: Number of its first frame in the scan.

    Raises:
        InvalidArgumentError: They are not as `ReconstructionFrames` says, or of another size than those before.
    """
    kind = message.WhichOneof("patterns")
    if kind is None:
        raise InvalidArgumentError("there is neither amplitudes nor counts", field="frames.patterns")
    field = f"frames.{kind}"
    patterns = from_proto(getattr(message, kind), field)
    _check_shape(patterns, size, field)
    positions = from_proto(message.positions, "frames.positions")
    if positions.dtype not in COORDINATES or positions.shape != (len(patterns), 2):
        needed = f"FP32 or FP64 [{len(patterns)}, 2] is needed, the (x, y) of each frame"
        raise InvalidArgumentError(f"positions are {positions.dtype} {list(positions.shape)}; {needed}", field="frames.positions")
    check_finite_positions(positions, "frames.positions", first=first)
    return _amplitudes(patterns, kind, field, first), positions.astype(np.float64)


def _check_shape(patterns: Array, size: int, field: str) -> None:
    if patterns.ndim != 3 or patterns.shape[1] != patterns.shape[2]:
        raise InvalidArgumentError(f"frames have shape {list(patterns.shape)}; [k, N, N] is needed", field=field)
    if len(patterns) > MOST_FRAMES:
        raise InvalidArgumentError(f"{len(patterns)} frames in one message; at most {MOST_FRAMES} are allowed", field=field)
    side = patterns.shape[1]
    if not MIN_SIZE <= side <= MAX_SIZE or side % 2:
        message = f"frames of {side} x {side} pixels; an even number from {MIN_SIZE} to {MAX_SIZE} is needed"
        raise InvalidArgumentError(message, field=field)
    if size not in (0, side):
        message = f"frames of {side} x {side} pixels; those before have {size} x {size}, and all of a scan must be equal"
        raise InvalidArgumentError(message, field=field)


def _amplitudes(patterns: Array, kind: str, field: str, first: int) -> NDArray[np.float32]:
    """Return patterns as amplitudes, checked; what holds for all frames alike is told from the first of them."""
    types = COUNTS if kind == "counts" else frozenset({np.dtype(np.float32)})
    if patterns.dtype not in types:
        raise InvalidArgumentError.unknown(f"element type of {kind}", str(patterns.dtype), map(str, types), field=field)
    check_frames(patterns, field, first=first)
    if kind == "counts":
        if first == 0:
            check_counts(patterns, field)
        amplitudes = np.sqrt(patterns, dtype=np.float32)
    else:
        if first == 0:
            check_amplitudes_not_counts(patterns, field)
        amplitudes = patterns
    if first == 0:
        check_centred(amplitudes, field)
    return amplitudes
