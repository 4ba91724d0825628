"""`tessera demo` from beginning to end: a stack of its own, a training, a version, answers; and again without training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fixtures.ports import free_port_base
from tests.fixtures.waiting import WAIT_S

ROOT = Path(__file__).parents[2]


def demo(home: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    figures = home.parent / "figures.json"
    figures.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    environment |= {"TESSERA_HOME": str(home), "TESSERA_PORT_BASE": str(free_port_base()), "PYTHONPATH": str(ROOT)}
    settings = ("--picture", str(ROOT / "examples" / "photo.jpg"), "--columns", "6", "--rows", "4", "--epochs", "40")
    done = subprocess.run(
        [sys.executable, "-m", "tessera.cli", "demo", "puzzle", *settings, "--json", str(figures), *arguments],
        env=environment,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(figures.read_text()), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_trains_once_and_serves_what_it_measured(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, said = demo(home)
    assert (first["family"], first["architecture"], first["version"]) == ("puzzle_cells", "cells_exp4", 1)
    assert first["parameters"] == 388_416 + 257 * 24, "the seed's body, and a head for 24 cells"
    assert first["epochs"] == 40
    assert (first["requests"], first["errors"]) == (24, 0)
    assert first["top1"] >= 0.9
    assert first["top5"] == first["top5_measured_in_training"]
    assert first["requests_per_s"] > 0
    assert 0 < first["p50_ms"] <= first["p99_ms"]
    assert [(name, row["requests"], row["errors"]) for name, row in first["runtimes"].items()] == [
        ("onnxruntime", 24, 0),
        ("torchserve", 24, 0),
    ]
    assert first["equal_answers"] == 24
    assert first["largest_probability_difference"] < 0.001
    assert set(first["phases_ms"]) == {"decode", "queue", "compute", "encode"}
    assert {Path(picture).name.rpartition("_")[2] for picture in first["pictures"]} == {"accuracy.png", "heatmap.png", "grid.png"}
    for picture in first["pictures"]:
        with Image.open(picture) as drawn:
            assert min(drawn.size) > 100
    assert "starting a stack" in said
    assert "champion of puzzle is version 1" in said
    assert not (home / "stack.json").exists(), "it stops what it started"

    second, said = demo(home)
    assert "found version 1" in said
    assert (second["version"], second["train_seconds"]) == (1, first["train_seconds"])

    third, said = demo(home, "--fresh")
    assert third["version"] == 2
    assert "champion of puzzle is version 2" in said


def test_a_picture_that_cannot_be_read_is_named_before_anything_starts(tmp_path: Path) -> None:
    environment = {**os.environ, "TESSERA_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tessera.cli", "demo", "--picture", "no-such-photo.jpg"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "no-such-photo.jpg: cannot read the file: No such file or directory" in done.stderr
    assert not (tmp_path / "home").exists()
