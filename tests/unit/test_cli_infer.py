"""`tessera infer`: tensors from files, tensors back."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.cli_fakes import Fakes, tessera


def test_tensors_go_there_and_come_back(fakes: Fakes, tmp_path: Path) -> None:
    images, names = np.arange(8, dtype=np.float32).reshape(1, 8), np.array([["one", "zwölf"]])
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "names.npy", names)
    given = (f"image={tmp_path}/images.npy", f"name={tmp_path}/names.npy")
    result = tessera("infer", "puzzle", *given, "--save", tmp_path / "answer.npz", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["model"], answer["version"], answer["runtime"]) == ("puzzle", 7, "onnxruntime")
    assert answer["outputs"] == {"image": images.tolist(), "name": names.tolist()}
    with np.load(tmp_path / "answer.npz", allow_pickle=False) as saved:
        assert np.array_equal(saved["image"], images)
        assert np.array_equal(saved["name"], names)
    shown = tessera("infer", "puzzle", *given, "--runtime", "torchserve")
    assert "0, 1, 2, 3, 4, 5, ..." in shown.stdout
    assert "puzzle version 7 on torchserve" in shown.stderr


@pytest.mark.parametrize("content", [b"no array", b"", b"PK\3\4", None])
def test_a_file_that_holds_no_array_is_named(fakes: Fakes, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.npy"
    if content is not None:
        path.write_bytes(content)
    result = tessera("infer", "puzzle", f"image={path}")
    assert result.exit_code == 1
    assert "image.npy: this is not an array of numpy" in result.stderr.replace("\n", "")
