"""`tessera reconstruct` against a small server: what goes in, what comes out, and what is said when it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.scan import Scan
from tests.fixtures.scans import a_scan
from tests.unit.cli_fakes import Fakes, tessera
from tests.unit.ptychography_fakes import CORNER, ERRORS, OBJECT, write_small_scan


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_small_scan(tmp_path / "scan.safetensors")
    return tmp_path / "scan.safetensors"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws nothing, which takes longer than all the rest."""
    monkeypatch.setattr("tessera.cli.reconstruction_output.draw", lambda *_: [])


def pictures(folder: Path) -> set[str]:
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.verify()
    return {path.name for path in folder.iterdir()}


def test_a_scan_goes_in_and_object_figures_and_pictures_come_out(fakes: Fakes, scan: Path) -> None:
    result = tessera("reconstruct", scan, "--refine", "rpie", "--target", "0.05", "--save", "found.npz", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["engine"] == "ptycho 7 + rpie 7"
    assert (figures["frames"], figures["iterations"], figures["corner"]) == (42, 2, list(CORNER))
    assert figures["errors"] == pytest.approx(ERRORS.tolist())
    assert figures["fourier_error"] == pytest.approx(0.05)
    assert figures["frames_per_s"] == pytest.approx(42 / figures["seconds"], rel=0.1)
    assert figures["truth"]["amplitude_psnr"] > 60, "the server answered the truth itself"
    assert figures["truth"]["frc50"] > 0.45
    assert figures["half_scans"] is None
    drawn = {"amplitude.png", "phase.png", "probe.png", "positions.png", "errors.png", "frc.png"}
    assert {Path(path).name for path in figures["pictures"]} == drawn
    assert pictures(Path("scan-reconstruction")) == drawn | {"preview_amplitude.png", "preview_phase.png"}
    with np.load("found.npz") as found:
        assert np.allclose(found["amplitude"] * np.exp(1j * found["phase"]), OBJECT, atol=1e-6)


def test_what_is_asked_for_reaches_the_server(fakes: Fakes, scan: Path, undrawn: None) -> None:
    told = ("--model", "fast", "--version", 3, "--refine", "lsqml", "--iterations", 7, "--target", 0.5, "--batch", 16, "--seed", 5)
    more = ("--fixed-probe", "--correct-positions", "--weighting", "uniform", "--crop", 8)
    assert tessera("reconstruct", scan, *told, *more).exit_code == 0
    (plan,) = fakes.ptychography.plans
    assert (plan.model.model, plan.model.version, plan.refine_with.model) == ("fast", 3, "lsqml")
    assert (plan.iterations, plan.target_fourier_error, plan.batch, plan.seed, plan.crop) == (7, 0.5, 16, 5, 8)
    assert (plan.fixed_probe, plan.correct_positions, plan.weighting) == (True, True, pb.RECONSTRUCTION_WEIGHTING_UNIFORM)
    assert plan.probe.shape == [1, 2, 16, 16]
    assert fakes.ptychography.frames == [42]


def test_people_read_what_came_of_it(fakes: Fakes, scan: Path) -> None:
    said = tessera("reconstruct", scan).stdout
    assert "ptycho 7 on torchserve" in said
    assert "80 x 64 pixels, upper left at (3.00, 5.00)" in said
    assert "frames/s with stitching" in said
    assert "FRC50" in said
    assert "scan-reconstruction/amplitude.png" in said


def test_without_a_truth_half_scans_tell_the_resolution(fakes: Fakes, scan: Path) -> None:
    write_small_scan(scan, truth=False)
    result = tessera("reconstruct", scan, "--half-scans", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["truth"] is None
    assert figures["half_scans"]["frc_half_bit"] == 0.5, "both halves gave the same object"
    assert fakes.ptychography.frames == [42, 21, 21]
    assert "frc.png" in pictures(Path("scan-reconstruction"))


def test_a_queued_scan_is_followed_and_its_result_fetched(fakes: Fakes, scan: Path, undrawn: None) -> None:
    result = tessera("reconstruct", scan, "--refine", "rpie", "--queue", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert (figures["iterations"], figures["seconds"], figures["frames_per_s"]) == (2, 3, 14)
    assert not fakes.ptychography.plans[0].HasField("probe"), "it lies beside the scan"
    assert "request r1" in result.stderr
    assert "pass 2, Fourier error 0.05" in result.stderr


def test_a_truth_in_other_coordinates_is_left_out_and_said(
    fakes: Fakes, scan: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.ptychography_fakes.CORNER", (5000.0, 0.0))
    result = tessera("reconstruct", scan, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["truth"] is None
    assert "not compared with the file's truth" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.npz",), "missing.npz: cannot read the file"),
        (("broken.npz",), "broken.npz"),
        (("scan.safetensors", "--weighting", "best"), "unknown weighting 'best'; known: probe, uniform"),
        (("scan.safetensors", "--half-scans", "--queue"), "use one of them"),
        (("scan.safetensors", "--pictures", "scan.safetensors/below"), "cannot make the directory"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(fakes: Fakes, scan: Path, arguments: tuple[str, ...], said: str) -> None:
    Path("broken.npz").write_bytes(b"PK\x03\x04")
    result = tessera("reconstruct", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert fakes.ptychography.plans == []


@pytest.mark.parametrize("number", ["--seed=99999999999999999999", "--iterations=3000000000", "--batch=1025", "--crop=1026"])
def test_numbers_that_no_message_can_carry_are_refused_by_name(fakes: Fakes, scan: Path, number: str) -> None:
    result = tessera("reconstruct", scan, number)
    assert result.exit_code == 2
    assert number.partition("=")[0] in result.stderr


def test_what_the_server_refuses_is_said(fakes: Fakes, scan: Path) -> None:
    fakes.ptychography.refusal = "frames have 16 x 16 pixels, the model takes 64 x 64"
    result = tessera("reconstruct", scan)
    assert result.exit_code == 1
    assert "the model takes 64 x 64" in result.stderr


def test_missing_libraries_are_named_with_what_installs_them(scan: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.cli.reconstruction_output.LIBRARIES", ("matplotlib", "no_such_library"))
    result = tessera("reconstruct", scan)
    assert result.exit_code == 1
    assert "no_such_library missing; install what is needed with `pip install 'tessera[ptychography]'`" in result.stderr


def test_a_scan_with_swapped_axes_is_refused_unless_its_positions_are_trusted(fakes: Fakes, scan: Path, undrawn: None) -> None:
    clear = a_scan(frames=64, size=32)
    write_scan(scan, Scan(clear.amplitudes, np.ascontiguousarray(clear.positions[:, ::-1]), clear.probe))
    refused = tessera("reconstruct", scan)
    assert refused.exit_code != 0
    assert "swapped" in refused.stderr
    assert tessera("reconstruct", scan, "--trust-positions").exit_code == 0
