"""The handler that runs in TorchServe's workers, and the archive that it is packed into."""

import hashlib
import json
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load, save

from model_store.torchserve import DESCRIPTION, pack_mar
from services.inference.runtimes.torchserve import HANDLER
from tests.fixtures.inference import TinyModel
from tests.fixtures.torchserve import program, program_manifest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # TorchServe's package leaves a file open when it is imported
    from services.inference.torchserve.handler import TensorHandler

TINY = TinyModel(marker=3)
IMAGES = np.random.default_rng(1).uniform(0.1, 1, (3, 3, 64, 64)).astype(np.float32)


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """Return the folder that TorchServe makes of our archive."""
    (tmp_path / "graph.pt2").write_bytes(program(TINY))
    pack_mar(program_manifest(TINY), tmp_path / "graph.pt2", HANDLER, tmp_path / "a.mar", name="puzzle-1", threads=1)
    with zipfile.ZipFile(tmp_path / "a.mar") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(tmp_path / "model")
    return tmp_path / "model"


def started(directory: Path) -> TensorHandler:
    handler = TensorHandler()
    handler.initialize(SimpleNamespace(system_properties={"model_dir": str(directory), "gpu_id": None}))
    return handler


def test_an_archive_says_which_graph_it_holds(unpacked: Path) -> None:
    manifest = json.loads((unpacked / "MAR-INF" / "MANIFEST.json").read_bytes())
    assert manifest["model"] == {"modelName": "puzzle-1", "modelVersion": "1", "handler": "handler.py"}
    description = json.loads((unpacked / DESCRIPTION).read_bytes())
    assert description["sha256"] == hashlib.sha256(program(TINY)).hexdigest()
    assert (description["inputs"], description["outputs"], description["threads"]) == (["image"], ["logits"], 1)


def test_tensors_come_in_and_go_out(unpacked: Path) -> None:
    (answer,) = started(unpacked).handle([{"tensors": bytearray(save({"image": IMAGES}))}], None)
    np.testing.assert_allclose(load(answer)["logits"], TINY.logits(IMAGES), rtol=1e-4, atol=1e-4)


def test_what_the_graph_raises_is_told(unpacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="RuntimeError: a piece is black"):
        started(unpacked).handle([{"tensors": save({"image": np.zeros((1, 3, 64, 64), np.float32)})}], None)
    assert "Traceback" in capsys.readouterr().err


def test_a_graph_that_was_exchanged_is_not_loaded(unpacked: Path) -> None:
    (unpacked / "model.pt2").write_bytes(program(TinyModel(marker=4)))
    with pytest.raises(RuntimeError, match="has the digest"):
        started(unpacked)
