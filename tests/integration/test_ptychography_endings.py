"""Reconstructions that do not come to their end, or may not begin: whoever goes, stalls or asks for too much leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.blob_files import BlobRef
from tessera.client.ptychography import Frames, PtychographyClient, Reconstruction, reconstruction_plan
from tessera.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from tessera.rpc.channel import open_channel
from tessera.rpc.status import rpc_errors
from tests.fixtures.cable import Cable
from tests.fixtures.inference import TinyModel, poll, publish_version
from tests.fixtures.ptychography import (
    NETWORK,
    PtychographyServer,
    frames,
    last,
    left_behind,
    pieces,
    publish_network,
    reconstructions,
    scan,
    serve_ptychography,
    start,
    until_nothing_is_left,
)
from tests.fixtures.tiny_engine import ENGINE, SIZE

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAN = reconstruction_plan(NETWORK)
GOOD = scan()


async def endless() -> AsyncIterator[Frames]:
    """A scan that stands still after its first frames."""
    yield pieces(GOOD)[0]
    await asyncio.Event().wait()


async def at_work(server: PtychographyServer) -> asyncio.Task[object]:
    """Begin a reconstruction that goes on for ever; return when its frames are on the disk."""
    task = asyncio.create_task(last(server.client.reconstruct(endless(), PLAN)))
    await poll(lambda: left_behind(server))
    return task


async def test_a_caller_who_goes_in_the_middle_of_the_scan_ends_it(ptychography_server: PtychographyServer) -> None:
    task = await at_work(ptychography_server)
    assert reconstructions() == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until_nothing_is_left(ptychography_server)


async def test_a_caller_who_goes_while_the_engine_works_ends_it(ptychography_server: PtychographyServer) -> None:
    plan = reconstruction_plan(ENGINE, iterations=10_000, batch=1, probe=GOOD.probe)
    async for event in ptychography_server.client.reconstruct(pieces(GOOD), plan):
        if isinstance(event, pb.ReconstructionProgress) and event.iteration:
            break
    await until_nothing_is_left(ptychography_server)


async def test_a_stream_whose_connection_breaks_in_the_middle_ends_it(ptychography_server: PtychographyServer) -> None:
    cable = Cable(ptychography_server.inference.address)
    async with open_channel(cable.address) as channel:
        task = asyncio.create_task(last(PtychographyClient(channel, 1 << 20).reconstruct(endless(), PLAN)))
        await poll(lambda: left_behind(ptychography_server))
        await asyncio.to_thread(cable.cut)
        with pytest.raises(UnavailableError):
            await task
    await until_nothing_is_left(ptychography_server)


async def test_what_a_caller_s_frames_raise_is_raised_to_him_and_ends_it(ptychography_server: PtychographyServer) -> None:
    async def breaking() -> AsyncIterator[Frames]:
        yield pieces(GOOD)[0]
        raise RuntimeError("the detector is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        await last(ptychography_server.client.reconstruct(breaking(), PLAN))
    await until_nothing_is_left(ptychography_server)


async def test_a_deadline_ends_it(ptychography_server: PtychographyServer) -> None:
    with pytest.raises(DeadlineExceededError):
        await last(ptychography_server.client.reconstruct(endless(), PLAN, timeout_s=0.5))
    await until_nothing_is_left(ptychography_server)


async def test_a_refusal_in_the_middle_of_much_that_is_sent_reaches_the_caller(ptychography_server: PtychographyServer) -> None:
    bad = [*pieces(GOOD, 10)[:3], Frames(np.full((10, SIZE, SIZE), -1, np.float32), GOOD.positions[:10]), *pieces(GOOD, 1) * 20]
    for _ in range(20):
        with pytest.raises(InvalidArgumentError, match="frame 30 holds -1"):
            await last(ptychography_server.client.reconstruct(bad, PLAN))
    await until_nothing_is_left(ptychography_server)


async def test_scans_of_the_store_that_are_none_are_refused(ptychography_server: PtychographyServer, tmp_path: Path) -> None:
    client, registry = ptychography_server.client, ptychography_server.inference.registry
    with pytest.raises(InvalidArgumentError, match="not a safetensors file"):
        await last(client.reconstruct(await registry.upload_bytes(b"nothing of the kind"), PLAN))
    with pytest.raises(NotFoundError):
        await last(client.reconstruct(BlobRef("0" * 64, 100), PLAN))
    await until_nothing_is_left(ptychography_server)


async def test_a_model_of_another_task_is_refused(ptychography_server: PtychographyServer) -> None:
    server = ptychography_server.inference
    version = await publish_version(server.registry, "puzzle", TinyModel(1), alias="champion")
    await server.wait_for_alias("puzzle", version.version)
    with pytest.raises(FailedPreconditionError, match="not of ptychography"):
        await last(ptychography_server.client.reconstruct(pieces(GOOD), reconstruction_plan("puzzle")))


async def test_a_server_without_a_queue_says_what_to_set(ptychography_server: PtychographyServer) -> None:
    with pytest.raises(FailedPreconditionError, match="TESSERA_INFERENCE_DATABASE_URL"), rpc_errors():
        await ptychography_server.client.stub.SubmitReconstruction(pb.SubmitReconstructionRequest(plan=PLAN))


async def test_a_server_takes_no_more_than_its_settings_allow(tmp_path: Path) -> None:
    settings = {"at_once": 1, "max_scan_bytes": 50 * 4 * SIZE**2, "idle_s": 3600}
    async with serve_ptychography(tmp_path, reconstruction=settings) as server:
        with pytest.raises(ResourceExhaustedError, match="the most that this server takes of a stream"):
            await last(server.client.reconstruct(pieces(GOOD), PLAN))
        task = await at_work(server)
        with pytest.raises(ResourceExhaustedError, match="1 reconstructions are at work") as caught:
            await last(server.client.reconstruct(pieces(scan(40)), PLAN))
        assert caught.value.retry_after_s == 1.0
        task.cancel()
        await until_nothing_is_left(server)
        await last(server.client.reconstruct(pieces(scan(40)), PLAN))


async def test_a_scan_that_stands_still_is_broken_off_with_the_reason(tmp_path: Path) -> None:
    async with serve_ptychography(tmp_path, reconstruction={"idle_s": 0.3}) as server:
        with pytest.raises(DeadlineExceededError, match="nothing came for 0"):
            await last(server.client.reconstruct(endless(), PLAN))
        await until_nothing_is_left(server)


async def test_a_caller_who_reads_nothing_is_cut_off(tmp_path: Path) -> None:
    found = scan(2000)
    async with serve_ptychography(tmp_path, stall_s=0.3) as server:
        call = server.client.stub.Reconstruct()
        await call.write(start())
        await call.write(frames(found.amplitudes, found.positions * 30))  # the result is more than gRPC keeps for a reader
        await call.done_writing()
        await poll(reconstructions)
        await until_nothing_is_left(server)
        with pytest.raises(grpc.aio.AioRpcError):
            async for response in call:
                assert response.WhichOneof("message") != "result"


async def test_one_version_computes_all_of_a_scan_though_the_alias_moves_meanwhile(ptychography_server: PtychographyServer) -> None:
    server = ptychography_server.inference
    first = await publish_network(server.registry, "moving")
    await server.wait_for_alias("moving", first.version)
    begun, moved = asyncio.Event(), asyncio.Event()

    async def arriving() -> AsyncIterator[Frames]:
        yield pieces(GOOD, 70)[0]
        await moved.wait()
        yield pieces(GOOD, 70)[1]

    async def move() -> None:
        await begun.wait()
        second = await publish_network(server.registry, "moving")
        await server.wait_for_alias("moving", second.version)
        moved.set()

    moving = asyncio.create_task(move())
    async for event in ptychography_server.client.reconstruct(arriving(), reconstruction_plan("moving")):
        if isinstance(event, pb.ReconstructionProgress) and event.frames_done:
            begun.set()
    await moving
    assert isinstance(event, Reconstruction)
    assert [one.version for one in event.summary.answered_by] == [first.version]
