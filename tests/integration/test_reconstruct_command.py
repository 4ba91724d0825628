"""`tessera reconstruct` against a real server with real versions: the file's object comes out, streamed, with its figures and pictures."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.reassembly import probe_weights
from tests.fixtures.ptychography import MEAN, NETWORK, PtychographyServer, scan, stitched
from tests.fixtures.tiny_engine import ENGINE
from tests.unit.cli_fakes import tessera

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_file_is_reconstructed_by_the_network_and_refined_by_the_engine(
    ptychography_server: PtychographyServer, tmp_path: Path
) -> None:
    found = scan()
    assert found.probe is not None
    write_scan(tmp_path / "scan.safetensors", found)
    server = ("--inference", ptychography_server.inference.address, "--home", tmp_path / "home")

    async def reconstruct(*options: str) -> tuple[dict[str, object], dict[str, np.ndarray]]:
        told = (
            tmp_path / "scan.safetensors",
            "--trust-positions",
            "--pictures",
            tmp_path / "out",
            "--save",
            tmp_path / "found.npz",
            "--json",
        )
        result = await asyncio.to_thread(tessera, *server, "reconstruct", *told, *options)
        assert result.exit_code == 0, result.stderr
        with np.load(tmp_path / "found.npz") as arrays:
            return json.loads(result.stdout), dict(arrays)

    figures, arrays = await reconstruct("--model", NETWORK)
    expected = stitched(found, weights=probe_weights(found.probe))
    left, top = (MEAN - expected.shape[0] // 2 - np.array(figures["corner"])).astype(int)
    rows, columns = arrays["amplitude"].shape
    there = expected[-top : rows - top, -left : columns - left]
    np.testing.assert_allclose(arrays["amplitude"] * np.exp(1j * arrays["phase"]), there, atol=1e-4)
    assert (figures["engine"], figures["frames"], figures["iterations"]) == (f"{NETWORK} 1", 100, 0)

    refined, _ = await reconstruct("--model", NETWORK, "--refine", ENGINE, "--iterations", "3")
    assert (refined["engine"], refined["iterations"]) == (f"{NETWORK} 1 + {ENGINE} 1", 3)
    assert refined["errors"][-1] < refined["errors"][0]  # type: ignore[index]
    assert {"amplitude.png", "phase.png", "probe.png", "errors.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
