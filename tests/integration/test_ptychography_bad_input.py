"""Bad scans over a stream: each is refused with its reason, leaves nothing behind, and the server goes on."""

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.client.conversation import converse
from tessera.client.ptychography import reconstruction_plan
from tessera.errors import InvalidArgumentError, NotFoundError, TesseraError
from tessera.tensors import to_proto
from tests.fixtures.ptychography import NETWORK, PtychographyServer, frames, last, pieces, scan, start, until_nothing_is_left
from tests.fixtures.tiny_engine import ENGINE, SIZE
from tests.fixtures.waiting import WAIT_S

GOOD = scan(40)
pytestmark = pytest.mark.asyncio(loop_scope="module")


def changed(index: tuple[int, ...], value: float) -> np.ndarray[Any, Any]:
    array = GOOD.amplitudes.copy()
    array[index] = value
    return array


def placed(positions: np.ndarray[Any, Any]) -> pb.ReconstructRequest:
    return frames(GOOD.amplitudes, positions)


SCAN = frames(GOOD.amplitudes)
NO_PATTERNS = pb.ReconstructRequest(frames=pb.ReconstructionFrames())
ROOTS = np.sqrt(np.arange(1, 10241, dtype=np.float32).reshape(40, 16, 16))
LARGE = np.random.default_rng(0).random((40, 32, 32), np.float32)
LARGE_PROBE = to_proto(np.ones((1, 2, 32, 32), np.float32))


@dataclass(frozen=True)
class Bad:
    """What is sent, and what has to come back."""

    requests: list[pb.ReconstructRequest]
    message: str
    error: type[TesseraError] = InvalidArgumentError


BAD = {
    "nothing at all": Bad([], "the first request of the stream is start"),
    "frames before start": Bad([SCAN], "frames came; the first request"),
    "an empty request": Bad([pb.ReconstructRequest()], "an empty request came; the first"),
    "a second start": Bad([start(), start()], "start came after start"),
    "no frames": Bad([start()], "0 positions; at least 2"),
    "one frame": Bad([start(), frames(GOOD.amplitudes[:1])], "1 positions; at least 2"),
    "all positions equal": Bad([start(), placed(np.ones((40, 2)))], "all 40 positions are equal"),
    "positions in metres": Bad([start(), placed(GOOD.positions * 1e-6)], "pixels are needed"),
    "positions of NaN": Bad([start(), placed(GOOD.positions * np.nan)], "NaN"),
    "positions of three coordinates": Bad([start(), placed(np.zeros((40, 3)))], r"FP32 or FP64 \[40, 2\] is needed"),
    "fewer positions than frames": Bad([start(), placed(np.zeros((39, 2)))], r"FP32 or FP64 \[40, 2\] is needed"),
    "integer positions": Bad([start(), placed(np.zeros((40, 2), np.int64))], "FP32 or FP64"),
    "a frame of NaN": Bad([start(), frames(changed((3, 0, 0), np.nan))], "NaN or infinity"),
    "a negative amplitude": Bad([start(), frames(changed((3, 0, 0), -1))], "frame 3 holds -1"),
    "a frame without counts": Bad([start(), SCAN, frames(changed((3,), 0), GOOD.positions)], "frame 43 holds no counts at all"),
    "counts as amplitudes": Bad([start(), frames(np.floor(GOOD.amplitudes) + 2)], "these are counts"),
    "amplitudes as counts": Bad([start(), frames(ROOTS, kind="counts")], "amplitudes"),
    "counts in double precision": Bad([start(), frames(GOOD.amplitudes.astype(np.float64), kind="counts")], "element type of counts"),
    "frames that are not square": Bad([start(), frames(GOOD.amplitudes[:, :8])], r"\[k, N, N\] is needed"),
    "frames that are too small": Bad([start(), frames(GOOD.amplitudes[:, :8, :8])], "8 x 8 pixels; an even number from 16"),
    "frames of another size than before": Bad(
        [start(), SCAN, frames(np.ones((2, 32, 32), np.float32))], "32 x 32 pixels; those before have 16 x 16"
    ),
    "frames of another size than the model's": Bad([start(), frames(LARGE)], "is for 16 x 16"),
    "too many frames in a message": Bad([start(), frames(np.ones((4097, 16, 16), np.float32), np.zeros((4097, 2)))], "at most 4096"),
    "neither amplitudes nor counts": Bad([start(), NO_PATTERNS], "neither amplitudes nor counts"),
    "no model": Bad([start(model=ModelSelector())], "no model is named"),
    "an unknown model": Bad([start(model=ModelSelector(model="nobody")), SCAN], "no model 'nobody'", NotFoundError),
    "an unknown engine": Bad([start(refine_with=ModelSelector(model="nobody")), SCAN], "no model 'nobody'", NotFoundError),
    "an unknown version": Bad([start(model=ModelSelector(model=NETWORK, version=9)), SCAN], "9", NotFoundError),
    "a network to refine with": Bad([start(refine_with=ModelSelector(model=NETWORK)), SCAN], "refine_with names an engine"),
    "an engine twice": Bad(
        [start(model=ModelSelector(model=ENGINE), refine_with=ModelSelector(model=ENGINE)), SCAN],
        "is an engine, which begins",
    ),
    "an engine without a probe": Bad([start(model=ModelSelector(model=ENGINE)), SCAN], "an engine needs a probe"),
    "a probe of another size": Bad([start(probe=LARGE_PROBE), SCAN], "probe has 32 x 32 pixels, but the frames 16 x 16"),
    "a probe of zeros": Bad([start(probe=to_proto(np.zeros((1, 2, SIZE, SIZE), np.float32))), SCAN], "0 everywhere"),
    "a probe without channels": Bad([start(probe=to_proto(np.ones((SIZE, SIZE), np.float32)))], r"\[modes, 2, size, size\]"),
    "weights of no probe": Bad([start(weighting=pb.RECONSTRUCTION_WEIGHTING_PROBE), SCAN], "there is none"),
    "an unknown weighting": Bad([start(weighting=7)], "unknown weighting"),
    "a crop that is odd": Bad([start(crop=3)], "3 is odd"),
    "a crop larger than a frame": Bad([start(crop=18), SCAN], "the crop is 18 pixels"),
    "too many passes": Bad([start(iterations=10_001)], "10001 is not within 1 to 10000"),
    "a negative batch": Bad([start(batch=-1)], "-1 is not within 1 to 1024"),
    "a target above one": Bad([start(target_fourier_error=2)], "2 is not within 0 to 1"),
    "a target of NaN": Bad([start(target_fourier_error=float("nan"))], "nan is not within 0 to 1"),
}


async def refusal(server: PtychographyServer, requests: Iterable[pb.ReconstructRequest]) -> TesseraError:
    async def sent() -> AsyncIterator[pb.ReconstructRequest]:
        for request in requests:
            yield request

    with pytest.raises(TesseraError) as caught:
        async for _ in converse(server.client.stub.Reconstruct, sent(), timeout_s=WAIT_S):
            pass
    return caught.value


async def test_each_is_refused_with_its_reason_and_the_server_goes_on(ptychography_server: PtychographyServer) -> None:
    wrong = {}
    for name, bad in BAD.items():
        error = await refusal(ptychography_server, bad.requests)
        if type(error) is not bad.error or not re.search(bad.message, error.message):
            wrong[name] = f"{type(error).__name__}: {error.message}"
    assert not wrong
    await last(ptychography_server.client.reconstruct(pieces(GOOD), reconstruction_plan(NETWORK)))
    await until_nothing_is_left(ptychography_server)
