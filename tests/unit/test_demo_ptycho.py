"""The ptychography demo, without servers: what it simulates, what it asks for, and what it shows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.cli.demo.ptycho import ENGINE, SIZE, PtychoDemo, engine_spec, simulated_halves
from tessera.cli.demo.ptycho_report import Report, Row
from tessera.cli.reconstructing import Reconstructed
from tessera.errors import DataLossError
from tessera.tasks.ptychography.signatures import to_channels
from tests.unit.cli_fakes import tessera
from trainers.families.ptycho import FAMILY


@pytest.fixture
def photograph() -> Image.Image:
    """Bright on the left, dark on the right, with detail in both."""
    rows, columns = np.indices((60, 80))
    return Image.fromarray((120 * (columns < 40) + 60 + 50 * np.sin(rows / 2) * np.sin(columns / 3)).astype(np.uint8)).convert("RGB")


def test_training_and_test_scan_are_of_two_halves_that_share_no_pixel(photograph: Image.Image) -> None:
    training, test = simulated_halves(photograph, 36)
    assert training.truth is not None and test.truth is not None
    assert np.abs(training.truth).mean() > np.abs(test.truth).mean() + 0.1, "the left half is the bright one"
    assert (len(training), training.size, training.truth.shape) == (36, SIZE, test.truth.shape)
    assert np.array_equal(training.probe, test.probe)
    again, _ = simulated_halves(photograph, 36)
    assert np.array_equal(again.amplitudes, training.amplitudes), "so that a second run finds the first one's job"
    darker, _ = simulated_halves(photograph.point(lambda value: value // 2), 36)
    assert not np.array_equal(darker.amplitudes, training.amplitudes)


def test_the_jobs_are_what_the_family_takes() -> None:
    demo = PtychoDemo(Path("photo.jpg"), 64, 3, "cnn", "ptycho", fresh=False)
    for spec in (demo.spec(), engine_spec()):
        FAMILY.architectures.get(spec.architecture).parse_config(dict(spec.model_config.items()))
        FAMILY.hyperparameters(**dict(spec.hyperparameters.items()))
    assert demo.spec().model_config["size"] == SIZE
    assert demo.spec().hyperparameters["epochs"] == 3


def test_the_report_measures_against_the_half_that_was_scanned(photograph: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    _, scan = simulated_halves(photograph, 36)
    assert scan.truth is not None and scan.probe is not None
    answered = [AnsweredBy(model="ptycho", version=2, runtime="torchserve"), AnsweredBy(model=ENGINE, version=1, runtime="onnxruntime")]
    tensors = {
        "amplitude": np.abs(scan.truth),
        "phase": np.angle(scan.truth),
        "weight": np.ones(scan.truth.shape, np.float32),
        "positions": scan.positions.astype(np.float32),
        "probe": to_channels(scan.probe),
        "errors": np.array([0.2, 0.01], np.float32),
    }
    perfect = Row.of("network + engine", Reconstructed(scan, tensors, (0.0, 0.0), 1, answered, 2.0))
    flat = Row.of("network", Reconstructed(scan, {**tensors, "errors": np.zeros(0)}, (0.0, 0.0), 0, answered[:1], 0.5))
    report = Report("cnn", "ptycho", 2, 2334146, 20, 61.5, flat.comparison.figures(), 36, [flat, perfect], [Path("objects.png")])
    figures = json.loads(json.dumps(report.as_dict()))
    assert [row["name"] for row in figures["rows"]] == ["network", "network + engine"]
    assert figures["rows"][1]["phase_psnr"] > 60
    assert (figures["rows"][1]["frames_per_s"], figures["rows"][1]["fourier_error"]) == (18, pytest.approx(0.01))
    assert figures["rows"][0]["fourier_error"] is None
    report.check_agreement()
    with pytest.raises(DataLossError, match=r"training measured 17\.000 dB"):
        replace(report, measured=report.measured | {"phase_psnr": 17.0}).check_agreement()
    report.show()
    said = capsys.readouterr().out
    assert "ptycho version 2" in said
    assert "RECONSTRUCTED BY" in said
    assert "objects.png" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lego",), "unknown demo 'lego'; known: ptycho, puzzle"),
        (("ptycho", "--columns", "5"), "--columns: the demo ptycho has no such setting"),
        (("puzzle", "--frames", "50"), "--frames: the demo puzzle has no such setting"),
        (("ptycho", "--picture", "missing.jpg"), "missing.jpg: cannot read the file"),
    ],
)
def test_what_a_demo_cannot_use_is_said_before_anything_starts(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    result = tessera("demo", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "home").exists()
