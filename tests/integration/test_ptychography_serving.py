"""PtychographyService.Reconstruct with real versions: what comes out is what the models and the reference make of the scan."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.client.ptychography import Frames, PtychographyClient, Reconstruction, reconstruction_plan
from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.iterating import Estimate, Options, iterate_here
from tessera.tasks.ptychography.physics import illumination
from tessera.tasks.ptychography.reassembly import probe_weights
from tests.fixtures import tiny_engine
from tests.fixtures.ptychography import (
    MEAN,
    NETWORK,
    PtychographyServer,
    TinyNetwork,
    check_object,
    last,
    pieces,
    publish_network,
    scan,
    stitched,
)
from tests.fixtures.tiny_engine import ENGINE, SIZE
from tests.fixtures.waiting import WAIT_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSES = 3


async def test_a_network_s_patches_become_the_object_that_the_reference_makes_of_them(ptychography_server: PtychographyServer) -> None:
    found = scan(probe=False)
    result = await last(ptychography_server.client.reconstruct(pieces(found), reconstruction_plan(NETWORK)))
    check_object(result, stitched(found))
    assert [one.model for one in result.summary.answered_by] == [NETWORK]
    assert (result.summary.frames, result.summary.iterations, result.summary.HasField("fourier_error")) == (len(found), 0, False)
    np.testing.assert_allclose(result.tensors["positions"], found.positions, atol=1e-5)


async def test_patches_are_weighted_by_the_probe_that_is_sent_unless_uniform_is_asked_for(ptychography_server: PtychographyServer) -> None:
    found = scan()
    assert found.probe is not None
    weights = probe_weights(found.probe)
    for weighting, expected in (
        (pb.RECONSTRUCTION_WEIGHTING_UNSPECIFIED, stitched(found, crop=12, weights=weights)),
        (pb.RECONSTRUCTION_WEIGHTING_UNIFORM, stitched(found, crop=12)),
    ):
        plan = reconstruction_plan(NETWORK, crop=12, weighting=weighting, probe=found.probe)
        result = await last(ptychography_server.client.reconstruct(pieces(found), plan))
        check_object(result, expected)
        assert 0 < result.summary.fourier_error == pytest.approx(result.tensors["errors"][0])


async def test_a_network_brings_the_probe_that_it_was_trained_with(ptychography_server: PtychographyServer) -> None:
    found = scan()
    version = await publish_network(ptychography_server.inference.registry, "with-probe", probe=found.probe)
    await ptychography_server.inference.wait_for_alias("with-probe", version.version)
    result = await last(ptychography_server.client.reconstruct(pieces(found), reconstruction_plan("with-probe")))
    assert found.probe is not None
    check_object(result, stitched(found, weights=probe_weights(found.probe)))


async def test_a_network_that_sees_groups_gets_neighbours_and_every_frame(ptychography_server: PtychographyServer) -> None:
    """Its patches do not depend on the company, so each frame counts as often as it was in a group: with the same weight everywhere
    nothing but the mean changes."""
    found = scan(probe=False)
    same = replace(found, amplitudes=np.broadcast_to(found.amplitudes[:1], found.amplitudes.shape))
    version = await publish_network(ptychography_server.inference.registry, "grouped", TinyNetwork(group=4))
    await ptychography_server.inference.wait_for_alias("grouped", version.version)
    result = await last(ptychography_server.client.reconstruct(pieces(same, 33), reconstruction_plan("grouped")))
    assert result.summary.frames == len(found)
    assert result.tensors["weight"].sum() == pytest.approx(4 * len(found) * (SIZE // 2) ** 2, rel=1e-4)


async def test_an_engine_goes_on_from_what_the_network_found(ptychography_server: PtychographyServer) -> None:
    found = scan()
    plan = reconstruction_plan(NETWORK, refine_with=ENGINE, iterations=PASSES, batch=10, seed=3, probe=found.probe)
    events = [event async for event in ptychography_server.client.reconstruct(pieces(found), plan)]
    result = events[-1]
    assert isinstance(result, Reconstruction)
    assert [one.model for one in result.summary.answered_by] == [NETWORK, ENGINE]
    assert (result.summary.iterations, len(result.tensors["errors"])) == (PASSES, PASSES + 1)
    # Every pass halves the object ten times; the frames, which come in another order, are not equally bright.
    np.testing.assert_allclose(result.tensors["errors"][2:] / result.tensors["errors"][1:-1], 0.25**10, rtol=0.2)
    told = [(event.iteration, event.frames_done) for event in events if isinstance(event, pb.ReconstructionProgress) and event.iteration]
    assert told == [(number, len(found)) for number in range(1, PASSES + 1)]


async def test_an_engine_alone_gives_what_it_gives_in_this_process(ptychography_server: PtychographyServer) -> None:
    found = tiny_engine.scan()
    assert found.probe is not None
    plan = reconstruction_plan(ENGINE, iterations=PASSES, probe=found.probe)
    result = await last(ptychography_server.client.reconstruct(pieces(found), plan))
    estimate = Estimate.begin(found.positions, found.probe, found.amplitudes)
    options = Options(iterations=PASSES, batch=tiny_engine.FRAMES // tiny_engine.STEPS)
    await asyncio.to_thread(iterate_here, estimate, found.amplitudes, tiny_engine.step, options)
    np.testing.assert_allclose(result.tensors["errors"], estimate.errors, rtol=1e-4)
    np.testing.assert_allclose(result.tensors["amplitude"] * np.exp(1j * result.tensors["phase"]), estimate.object, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(result.summary.corner, estimate.origin)
    light = illumination(estimate.probe, estimate.corners, estimate.object.shape)
    np.testing.assert_allclose(result.tensors["weight"], light, rtol=1e-4, atol=1e-6 * light.max())


async def test_an_engine_stops_at_the_error_that_is_asked_for(ptychography_server: PtychographyServer) -> None:
    found = tiny_engine.scan()
    plan = reconstruction_plan(ENGINE, iterations=100, target_fourier_error=1e-3, probe=found.probe)
    result = await last(ptychography_server.client.reconstruct(pieces(found), plan))
    errors = result.tensors["errors"]
    assert errors[-1] <= 1e-3 < errors[-2]


async def test_counts_and_amplitudes_a_stream_and_the_store_give_the_same(ptychography_server: PtychographyServer, tmp_path: Path) -> None:
    found = scan()
    counts = np.random.default_rng(1).integers(0, 900, found.amplitudes.shape).astype(np.uint16)
    found = replace(found, amplitudes=np.sqrt(counts, dtype=np.float32))
    file = tmp_path / "scan.safetensors"
    write_scan(file, found)
    client, plan = ptychography_server.client, reconstruction_plan(NETWORK, probe=found.probe)
    as_counts = [Frames(counts[:50], found.positions[:50], counts=True), Frames(counts[50:], found.positions[50:], counts=True)]
    results = [
        await last(client.reconstruct(pieces(found), plan)),
        await last(client.reconstruct(as_counts, plan)),
        await last(client.reconstruct(await ptychography_server.inference.registry.upload_file(file), reconstruction_plan(NETWORK))),
    ]
    for other in results[1:]:
        assert other.tensors.keys() == results[0].tensors.keys()
        for name, array in other.tensors.items():
            np.testing.assert_allclose(array, results[0].tensors[name], rtol=1e-5, atol=1e-6, err_msg=name)


async def test_the_preview_grows_while_frames_arrive(ptychography_server: PtychographyServer) -> None:
    found = scan()
    first, *rest = pieces(found, 70)
    seen = asyncio.Event()

    async def arriving() -> AsyncIterator[Frames]:
        yield first
        await seen.wait()  # the second part is recorded only after a person has seen the first
        for piece in rest:
            yield piece

    previews = []
    plan = reconstruction_plan(NETWORK)
    async with asyncio.timeout(WAIT_S):
        async for event in ptychography_server.client.reconstruct(arriving(), plan, preview_interval_s=1e-6):
            if isinstance(event, pb.ReconstructionPreview):
                previews.append(event)
                if event.frames == len(first.patterns):
                    seen.set()
    assert [event.frames for event in previews] == sorted(event.frames for event in previews)
    assert previews[-1].frames == len(found)
    sizes = [Image.open(io.BytesIO(event.amplitude)).size for event in previews]
    assert sizes[-1] >= sizes[0]
    assert Image.open(io.BytesIO(previews[-1].phase)).size == sizes[-1]


async def test_no_preview_is_drawn_for_those_who_want_none(ptychography_server: PtychographyServer) -> None:
    events = [
        event async for event in ptychography_server.client.reconstruct(pieces(scan()), reconstruction_plan(NETWORK), preview_interval_s=0)
    ]
    assert not [event for event in events if isinstance(event, pb.ReconstructionPreview)]
    progress = [event for event in events if isinstance(event, pb.ReconstructionProgress)]
    assert (progress[-1].frames, progress[-1].frames_done) == (100, 100)


async def test_frames_are_sent_in_messages_that_the_server_takes_and_large_results_come_in_parts(
    ptychography_server: PtychographyServer,
) -> None:
    client = PtychographyClient(ptychography_server.inference.channel, max_message_bytes=16 << 10)
    found = scan(2000, probe=False)
    spread = replace(found, positions=MEAN + (found.positions - MEAN) * 30)
    result = await last(client.reconstruct(pieces(spread, 2000), reconstruction_plan(NETWORK)))
    assert result.tensors["weight"].nbytes > 1 << 20, "more than one part"
    check_object(result, stitched(spread))
