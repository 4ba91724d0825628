"""ClassifyCell with whatever a caller may send: refused clearly, and the server goes on answering others."""

import asyncio
import io
import math
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from tessera.api.common.v1.common_pb2 import ModelSelector, Tensor
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest
from tessera.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError, TesseraError
from tessera.rpc.channel import open_channel
from tessera.rpc.status import rpc_errors
from tessera.tasks import puzzle_cells
from tessera.tasks.images import decode_image, encode_png
from tests.fixtures.inference import CELLS, InferenceServer, TinyModel, check_answer, piece, publish_version, tensor
from tests.fixtures.waiting import WAIT_S

MODEL = "puzzle"
TINY = TinyModel(marker=7)


def png(side: int = 64, mode: str = "RGB") -> bytes:
    """Return a picture of one colour."""
    return encode_png(Image.new(mode, (side, side), 77 if mode == "L" else (10, 20, 30, 200)[: len(mode)]))


def huge_png() -> bytes:
    """Return a small file that claims 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def animated_gif() -> bytes:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def spoilt(value: float) -> Tensor:
    array = piece()
    array[3, 4, 1] = value
    return tensor(array)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "neither image nor tensor": ({}, "piece", "set image or tensor"),
    "empty image": ({"image": b""}, "image", "empty"),
    "not an image": ({"image": b"not an image at all"}, "image", "not a PNG, JPEG or WebP"),
    "a GIF": ({"image": animated_gif()}, "image", "not a PNG, JPEG or WebP"),
    "truncated PNG": ({"image": png()[:-40]}, "image", "damaged or truncated"),
    "1x1": ({"image": png(1)}, "image", "1 x 1; 4 x 4 is the least"),
    "claims 20,000 x 20,000": ({"image": huge_png()}, "image", "16000000 pixels"),
    "over 10 MB": ({"image": png() + bytes(10_000_000)}, "image", "at most 10000000"),
    "four channels": ({"tensor": tensor(np.zeros((64, 64, 4)))}, "tensor", r"\[64, 64, 4\]"),
    "channels first": ({"tensor": tensor(np.zeros((3, 64, 64)))}, "tensor", r"\[3, 64, 64\]"),
    "a batch": ({"tensor": tensor(np.zeros((1, 64, 64, 3)))}, "tensor", r"\[1, 64, 64, 3\]"),
    "wrong size": ({"tensor": tensor(np.zeros((32, 32, 3)))}, "tensor", r"\[32, 32, 3\]"),
    "wrong type": (
        {"tensor": Tensor(data_type="DATA_TYPE_UINT8", shape=(64, 64, 3), data=bytes(64 * 64 * 3))},
        "tensor",
        "uint8; FP32 is needed",
    ),
    "no type": ({"tensor": Tensor(shape=(64, 64, 3), data=bytes(64 * 64 * 12))}, "tensor.data_type", "unknown data type"),
    "too few bytes": ({"tensor": Tensor(data_type="DATA_TYPE_FP32", shape=(64, 64, 3), data=bytes(100))}, "tensor.data", "100 bytes"),
    "empty tensor": ({"tensor": Tensor()}, "tensor.data_type", "unknown data type"),
    "shape overflow": ({"tensor": Tensor(data_type="DATA_TYPE_FP32", shape=(2**62, 2**62, 4), data=b"")}, "tensor.data", "0 bytes"),
    "negative extent": ({"tensor": Tensor(data_type="DATA_TYPE_FP32", shape=(-64, 64, 3), data=b"")}, "tensor.shape", "below 1"),
    "NaN": ({"tensor": spoilt(math.nan)}, "tensor.data", "NaN or infinity"),
    "infinity": ({"tensor": spoilt(math.inf)}, "tensor.data", "NaN or infinity"),
    "0 to 255": ({"tensor": spoilt(255.0)}, "tensor", "0 to 1 is needed"),
    "top_k too large": ({"tensor": tensor(piece()), "top_k": CELLS + 1}, "top_k", "1 to 12"),
    "top_k negative": ({"tensor": tensor(piece()), "top_k": -1}, "top_k", "1 to 12"),
    "no model": ({"tensor": tensor(piece()), "model": ModelSelector()}, "model.model", "not a valid name"),
}


@pytest.fixture
async def server(inference_server: InferenceServer) -> AsyncIterator[InferenceServer]:
    """A server with one tiny model."""
    await publish_version(inference_server.registry, MODEL, TINY, alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    yield inference_server


async def send(server: InferenceServer, **fields: Any) -> Any:
    request = ClassifyCellRequest(**({"model": ModelSelector(model=MODEL)} | fields))
    with rpc_errors():
        return await server.client.puzzle_stub.ClassifyCell(request, timeout=WAIT_S)


async def check_alive(server: InferenceServer) -> None:
    image = piece(9)
    check_answer(await send(server, tensor=tensor(image), include_probabilities=True), TINY, image)


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_with_the_field_and_the_reason(server: InferenceServer, case: str) -> None:
    fields, field, reason = BAD[case]
    with pytest.raises(InvalidArgumentError, match=reason) as refused:
        await send(server, **fields)
    assert refused.value.field == field
    await check_alive(server)


async def test_a_hundred_bad_requests_do_not_disturb_the_good_ones_among_them(server: InferenceServer) -> None:
    async def good(seed: int) -> None:
        image = piece(seed)
        check_answer(await send(server, tensor=tensor(image), include_probabilities=True), TINY, image)

    async def bad(number: int) -> None:
        fields = list(BAD.values())[number % len(BAD)][0]
        with pytest.raises(InvalidArgumentError):
            await send(server, **fields)

    await asyncio.gather(*(call(number) for number in range(100) for call in (good, bad)))


async def test_a_message_of_100_mb_is_refused(server: InferenceServer) -> None:
    roomy = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.address, roomy) as channel:
        call = channel.unary_unary(
            "/tessera.api.inference.v1.PuzzleService/ClassifyCell", request_serializer=ClassifyCellRequest.SerializeToString
        )
        with pytest.raises(ResourceExhaustedError), rpc_errors():
            await call(ClassifyCellRequest(image=bytes(100_000_000)), timeout=WAIT_S)
    await check_alive(server)


async def test_bytes_that_are_no_request_at_all_are_refused(server: InferenceServer) -> None:
    async with open_channel(server.address) as channel:
        call = channel.unary_unary("/tessera.api.inference.v1.PuzzleService/ClassifyCell")
        with pytest.raises(TesseraError), rpc_errors():
            await call(b"\xff\xff\xff\xff", timeout=WAIT_S)
    await check_alive(server)


@pytest.mark.parametrize(("mode", "side"), [("RGB", 64), ("L", 30), ("RGBA", 64), ("RGB", 4), ("RGB", 600)])
async def test_pictures_of_any_size_and_mode_are_answered_as_the_task_preprocesses_them(
    server: InferenceServer, mode: str, side: int
) -> None:
    data = png(side, mode)
    pixels = puzzle_cells.preprocess(decode_image(data)).transpose(1, 2, 0)
    check_answer(await send(server, image=data, include_probabilities=True), TINY, pixels)


@pytest.mark.parametrize(("top_k", "answered"), [(0, 5), (1, 1), (CELLS, CELLS)])
async def test_as_many_candidates_as_asked_for_come_best_first(server: InferenceServer, top_k: int, answered: int) -> None:
    answer = await send(server, tensor=tensor(piece()), top_k=top_k)
    chances = [cell.probability for cell in answer.candidates]
    assert len(chances) == answered
    assert chances == sorted(chances, reverse=True)
    assert not answer.probabilities


async def test_a_deadline_that_has_passed_is_answered_as_such(server: InferenceServer) -> None:
    request = ClassifyCellRequest(model=ModelSelector(model=MODEL), tensor=tensor(piece()))
    with pytest.raises(DeadlineExceededError), rpc_errors():
        await server.client.puzzle_stub.ClassifyCell(request, timeout=-1)
    await check_alive(server)
