"""Queued reconstructions end to end: a scan is uploaded, judged, reconstructed by a real engine, and its object comes back."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save
from typer.testing import CliRunner

from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2 import ReconstructionPlan
from tessera.blob_files import BlobRef
from tessera.cli.main import app
from tessera.client.inference import InferenceClient
from tessera.client.ptychography import PtychographyClient
from tessera.client.queued import QueuedInferenceClient
from tessera.client.registry import RegistryClient
from tessera.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, TesseraError
from tessera.rpc.channel import open_channel
from tessera.settings import DEFAULT_MESSAGE_BYTES
from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.iterating import Estimate, Options, iterate_here
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.signatures import to_channels
from tessera.tensor_files import load_tensors
from tessera.tensors import to_proto
from tests.fixtures.inference import poll
from tests.fixtures.ptychography import NETWORK, last, pieces, publish_network
from tests.fixtures.ptychography import scan as a_scan
from tests.fixtures.queued import LEASE_S, MODEL, QueuedCluster, QueuedServer, until, until_ended, until_streams_are_empty
from tests.fixtures.tiny_engine import ENGINE, FRAMES, SIZE, STEPS, publish_engine, scan, step

PASSES = 3
TO_PASS_ONE = 1 + 2 * STEPS
"""Calls of a model until the first pass is done: the version is chosen, and what the engine begins with is measured."""


def plan(model: str = ENGINE, **fields: Any) -> ReconstructionPlan:
    return ReconstructionPlan(model=ModelSelector(model=model), **{"iterations": PASSES} | fields)


def expected(found: Scan) -> Estimate:
    """Reconstruct a scan here."""
    assert found.probe is not None
    estimate = Estimate.begin(found.positions, found.probe, found.amplitudes)
    iterate_here(estimate, found.amplitudes, step, Options(iterations=PASSES, batch=FRAMES // STEPS))
    return estimate


async def assert_reconstructed(tensors: dict[str, NDArray[Any]], ended: pb.Inference) -> None:
    wanted = await asyncio.to_thread(expected, scan())
    assert (ended.state, ended.rows, ended.rows_done) == (pb.INFERENCE_STATE_SUCCEEDED, FRAMES * PASSES, FRAMES * PASSES), ended
    status = ended.reconstruction
    assert (status.frames, status.iteration, [one.model for one in status.answered_by]) == (FRAMES, PASSES, [ENGINE])
    np.testing.assert_allclose(status.fourier_error, wanted.errors[-1], rtol=1e-4)
    np.testing.assert_allclose(status.corner, wanted.origin)
    np.testing.assert_allclose(tensors["corner"], wanted.origin)
    np.testing.assert_allclose(tensors["errors"], wanted.errors, rtol=1e-4)
    np.testing.assert_allclose(tensors["amplitude"] * np.exp(1j * tensors["phase"]), wanted.object, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tensors["positions"], scan().positions, atol=1e-5)
    assert tensors["probe"].shape == (1, 2, SIZE, SIZE)


@pytest.fixture
async def server(queued_server: QueuedServer) -> QueuedServer:
    """A server with a queue that serves an engine too."""
    await publish_engine(queued_server.registry)
    await until_served(queued_server, ENGINE)
    return queued_server


async def until_served(server: QueuedServer, model: str) -> None:
    async def served() -> bool:
        return any("champion" in one.aliases for one in (await InferenceClient(server.channel).list_served(model)).versions)

    await poll(served)


async def test_a_scan_is_queued_reconstructed_and_its_object_lies_in_the_store(server: QueuedServer, tmp_path: Path) -> None:
    submitted = await server.client.submit_reconstruction(scan(), plan(), idempotency_key="scan-7", priority="high")
    inference = submitted.inference
    assert (submitted.created, inference.model.model, inference.priority) == (True, ENGINE, pb.INFERENCE_PRIORITY_HIGH)
    seen = [update async for update in server.client.watch(inference.id)]
    assert [update.rows_done for update in seen] == sorted(update.rows_done for update in seen)
    assert (seen[-1].version, seen[-1].runtime) == (1, "onnxruntime")
    await assert_reconstructed(await server.client.result(inference.id), seen[-1])
    await server.client.download_result(inference.id, tmp_path / "object.safetensors")
    await assert_reconstructed(load_tensors(tmp_path / "object.safetensors"), seen[-1])

    write_scan(tmp_path / "scan.safetensors", scan())
    for again in (tmp_path / "scan.safetensors", BlobRef(inference.inputs.sha256, inference.inputs.size_bytes)):
        known = await server.client.submit_reconstruction(again, plan(), idempotency_key="scan-7", priority="high")
        assert (known.created, known.inference.id) == (False, inference.id)
    assert [one.id async for one in server.client.list(model=ENGINE)] == [inference.id]


async def test_what_is_queued_gives_the_object_that_is_streamed(server: QueuedServer) -> None:
    await publish_network(server.registry)
    await until_served(server, NETWORK)
    found = a_scan(60)
    asked = plan(NETWORK, refine_with=ModelSelector(model=ENGINE))
    inference_id = (await server.client.submit_reconstruction(found, asked)).inference.id
    tensors = await result(server.client, inference_id)
    ended = await server.client.get(inference_id)
    assert (ended.rows, ended.rows_done, ended.model.model) == (60 * (1 + PASSES), 60 * (1 + PASSES), NETWORK)
    assert ended.reconstruction.refine_with.model == ENGINE
    assert [one.model for one in ended.reconstruction.answered_by] == [NETWORK, ENGINE]
    streaming = PtychographyClient(server.channel, DEFAULT_MESSAGE_BYTES)
    asked.probe.CopyFrom(to_proto(to_channels(found.probe)))
    streamed = await last(streaming.reconstruct(pieces(found), asked))
    assert list(ended.reconstruction.corner) == list(streamed.summary.corner)
    assert tensors.keys() - {"corner"} == streamed.tensors.keys()
    for name, array in streamed.tensors.items():
        np.testing.assert_allclose(tensors[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


async def test_a_person_is_shown_how_far_it_came_and_who_answered(server: QueuedServer, tmp_path: Path) -> None:
    inference_id = (await server.client.submit_reconstruction(scan(), plan())).inference.id
    await until_ended(server.client, inference_id)
    to_server = ["--inference", server.address, "--home", str(tmp_path), "queue"]
    shown = await asyncio.to_thread(CliRunner().invoke, app, [*to_server, "show", inference_id])
    for line in (r"passes +3\s", r"frames +6\s", r"answered by +halving 1 on onnxruntime", r"upper left at +-?[\d.]+, -?[\d.]+"):
        assert re.search(line, shown.stdout), shown.output
    watched = await asyncio.to_thread(CliRunner().invoke, app, [*to_server, "watch", inference_id])
    assert re.search(r"succeeded  rows 18/18, pass 3, Fourier error [\de.-]+", watched.stderr), watched.output


def damaged(**changes: NDArray[Any] | None) -> bytes:
    tensors: dict[str, NDArray[Any] | None] = {"amplitudes": scan().amplitudes, "positions": scan().positions}
    return save({name: array for name, array in (tensors | changes).items() if array is not None})


REFUSED: list[tuple[bytes, dict[str, Any], type[TesseraError], str, str]] = [
    (b"no scan", {}, InvalidArgumentError, "scan", "not a safetensors file"),
    (damaged()[:-8], {}, InvalidArgumentError, "scan", "not a safetensors file"),
    (damaged(positions=None), {}, InvalidArgumentError, "scan", "needs amplitudes and positions; this file holds amplitudes"),
    (damaged(positions=np.zeros((3, 2))), {}, InvalidArgumentError, "scan.positions", "6 frames but 3 positions"),
    (
        damaged(amplitudes=np.zeros((6, 24, 24), np.float32)),
        {},
        InvalidArgumentError,
        "plan.model",
        "24 x 24 pixels; halving is for 16 x 16",
    ),
    (damaged(probe=np.ones((1, 2, 24, 24), np.float32)), {}, InvalidArgumentError, "scan.probe", "24 x 24 pixels, but the frames 16 x 16"),
    (damaged(), {"model": "unheard-of"}, NotFoundError, "", "unheard-of"),
    (damaged(), {"refine_with": ModelSelector(model="unheard-of")}, NotFoundError, "", "unheard-of"),
    (damaged(), {"model": MODEL}, FailedPreconditionError, "plan.model", "task puzzle_cells; ptychography is needed"),
    (damaged(), {"iterations": -1}, InvalidArgumentError, "plan.iterations", "-1"),
]


async def test_what_its_header_or_the_plan_tell_is_refused_before_it_is_queued(server: QueuedServer) -> None:
    for data, fields, error, field, message in REFUSED:
        blob = await server.registry.upload_bytes(data)
        with pytest.raises(error, match=message) as refused:
            await server.client.submit_reconstruction(blob, plan(**fields))
        assert not field or refused.value.field == field
    with pytest.raises(NotFoundError, match="upload it first") as missing:
        await server.client.submit_reconstruction(BlobRef("0" * 64, 5), plan())
    assert missing.value.field == "scan.sha256"
    with pytest.raises(InvalidArgumentError, match="unknown priority"):
        await server.client.submit_reconstruction(scan(), plan(), priority="urgent")
    assert [one async for one in server.client.list()] == []


async def test_what_only_the_frames_tell_ends_it_without_another_attempt(server: QueuedServer) -> None:
    holed = scan().amplitudes.copy()
    holed[4, 3, 2] = np.nan
    bad = {
        "NaN or infinity in frame 4": replace(scan(), amplitudes=holed),
        "positions are equal": replace(scan(), positions=np.ones((FRAMES, 2))),
        "an engine needs a probe": replace(scan(), probe=None),
    }
    ids = {message: (await server.client.submit_reconstruction(found, plan())).inference.id for message, found in bad.items()}
    for message, inference_id in ids.items():
        ended = await until_ended(server.client, inference_id)
        assert (ended.state, len(ended.attempts)) == (pb.INFERENCE_STATE_FAILED, 1)
        assert message in ended.error


async def test_it_is_cancelled_between_two_steps_and_leaves_no_result(server: QueuedServer) -> None:
    server.router.close(free=TO_PASS_ONE)
    running = (await server.client.submit_reconstruction(scan(), plan())).inference.id
    await server.router.held.wait()
    held = await until(server.client, running, lambda inference: inference.reconstruction.iteration == 1)
    assert (held.rows, held.rows_done) == (FRAMES * PASSES, FRAMES)
    assert held.reconstruction.fourier_error > 0
    await server.client.cancel(running)
    ended = await until_ended(server.client, running)
    assert (ended.state, ended.HasField("result")) == (pb.INFERENCE_STATE_CANCELLED, False)
    server.router.gate.set()
    other = (await server.client.submit_reconstruction(scan(), plan())).inference.id
    await assert_reconstructed(await result(server.client, other), await server.client.get(other))


async def result(client: QueuedInferenceClient, inference_id: str) -> dict[str, NDArray[Any]]:
    await until_ended(client, inference_id)
    return await client.result(inference_id)


@pytest.mark.slow
async def test_another_server_reconstructs_what_a_killed_one_left_in_the_middle_of_its_passes(cluster: QueuedCluster) -> None:
    async with open_channel(cluster.registry.address) as channel:
        await publish_engine(RegistryClient(channel))
        first, second = cluster.server("first", free=TO_PASS_ONE), cluster.server("second")
        first.gate.touch()
        await first.start_serving()
        async with open_channel(first.address) as to_first, open_channel(second.address) as to_second:
            client, survivor = (QueuedInferenceClient(one, RegistryClient(channel)) for one in (to_first, to_second))
            inference_id = (await client.submit_reconstruction(scan(), plan())).inference.id
            await until(client, inference_id, lambda inference: inference.reconstruction.iteration == 1)
            await first.until_held()
            first.kill()
            await second.start_serving()
            tensors = await result(survivor, inference_id)
            ended = await survivor.get(inference_id)
            await assert_reconstructed(tensors, ended)
            assert [attempt.server for attempt in ended.attempts] == ["first", "second"]
            assert f"first was not heard of for {LEASE_S:g} s" in ended.attempts[0].error
            await until_streams_are_empty(cluster.redis.url)
