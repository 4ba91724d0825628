"""PyTorch, TensorFlow and the numpy reference make the same object of the same patches."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera.tasks.ptychography.reassembly import probe_weights
from tessera.tasks.ptychography.reassembly import reassemble as reassemble_numpy
from tests.fixtures.patches import by_the_book, gaussian_probe, random_offsets, random_patches
from trainers.families.ptycho.reassembly import reassemble as reassemble_torch

TOLERANCE = 1e-5
ROOT = Path(__file__).parents[2]
Case = dict[str, Any]


def case(count: int, size: int, crop: int, reach: float, **more: Any) -> Case:
    offsets = random_offsets(count, reach, seed=count).astype(np.float32)
    return {"patches": random_patches(count, size, seed=crop), "offsets": offsets, "crop": crop, **more}


def one_bright_patch() -> Case:
    """All patches are dark but one, whose bright corner is not symmetric; a wrong sign or order of axes puts it elsewhere."""
    patches = np.zeros((5, 16, 16), np.complex64)
    patches[3, 4:6, 4:9] = 1 + 2j
    patches[3, 6, 4] = 3
    return {"patches": patches, "offsets": np.array([[0, 0], [11.5, 2.25], [-3, 4], [17.75, -6.5], [2, 1]], np.float32), "crop": 10}


def seed_case() -> Case:
    """Two bright squares in patches that lie 40 and 30 pixels apart."""
    patches = np.zeros((2, 64, 64), np.complex64)
    patches[0, 24:28, 24:28] = 1
    patches[1, 36:40, 36:40] = 1
    return {"patches": patches, "offsets": np.array([[0, 0], [40, 30]], np.float32), "crop": 32}


CASES: dict[str, Case] = {
    "one": case(1, 16, 8, 5),
    "two": case(2, 32, 32, 12),
    "odd crop": case(7, 16, 9, 6.5),
    "one pixel": case(9, 16, 1, 4),
    "64": case(64, 32, 20, 15),
    "more than 64": case(65, 32, 16, 15),
    "500": case(500, 16, 12, 40),
    "probe": case(40, 32, 24, 20, weights=probe_weights(gaussian_probe(32))),
    "500 probe": case(500, 16, 10, 20, weights=probe_weights(gaussian_probe(16))),
    "larger canvas": case(20, 16, 12, 9, canvas=101),
    "smaller canvas": case(20, 16, 12, 9, canvas=20),
    "equal offsets": {"patches": random_patches(4, 16), "offsets": np.full((4, 2), 3.7, np.float32), "crop": 8},
    "tenths": {"patches": random_patches(30, 16), "offsets": np.mgrid[:30, :1].reshape(2, -1).T * (0.1, 0.3), "crop": 8},
    "one bright patch": one_bright_patch(),
    "seed": seed_case(),
}
GROUPS = {"patches": random_patches(70 * 4, 16).reshape(70, 4, 16, 16), "offsets": random_offsets(280, 4).reshape(70, 4, 2), "crop": 12}


@pytest.fixture(scope="module")
def in_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tensorflow")
    arrays = {f"{name}/{key}": value for name, case in {**CASES, "groups": GROUPS}.items() for key, value in case.items()}
    np.savez(folder / "cases.npz", **arrays)
    command = [sys.executable, "-m", "tests.fakes.reassemble_with_tensorflow", folder / "cases.npz", folder / "answers.npz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "answers.npz")


def in_torch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    tensors = {key: torch.from_numpy(value) for key, value in case.items() if isinstance(value, np.ndarray)}
    return tuple(tensor.numpy() for tensor in reassemble_torch(**{**case, **tensors}))


def reference(case: Case) -> tuple[np.ndarray, np.ndarray]:
    return reassemble_numpy(**case, dtype=np.complex128)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "canvas" not in case])
def test_the_reference_does_what_the_definition_says(name: str) -> None:
    expected, weight = by_the_book(*(CASES[name].get(key) for key in ("patches", "offsets", "crop", "weights")))
    found, found_weight = reference(CASES[name])
    assert found.shape == expected.shape
    assert np.abs(found_weight - weight).max() < TOLERANCE * max(1, weight.max())
    # Pixels that a patch touches with next to nothing are left out: the definition divides rounding by rounding there.
    assert np.abs(found - expected)[weight > 1e-8].max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_torch_tensorflow_and_numpy_make_the_same_object(name: str, in_tensorflow: Any) -> None:
    expected, weight = reference(CASES[name])
    single, _ = reassemble_numpy(**CASES[name])
    for found, found_weight in (in_torch(CASES[name]), (in_tensorflow[f"{name}/object"], in_tensorflow[f"{name}/weight"])):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < TOLERANCE
        assert np.abs(found_weight - weight).max() < TOLERANCE * max(1, weight.max())
    assert np.abs(single - expected).max() < TOLERANCE


def test_each_group_of_a_batch_makes_an_object_of_its_own(in_tensorflow: Any) -> None:
    found, found_weight = in_torch(GROUPS)
    assert found.shape[0] == 70
    for index in range(70):
        alone = {"patches": GROUPS["patches"][index], "offsets": GROUPS["offsets"][index], "crop": 12, "canvas": found.shape[-1]}
        expected, weight = reference(alone)
        assert np.abs(found[index] - expected).max() < TOLERANCE
        assert np.abs(in_tensorflow["groups/object"][index] - expected).max() < TOLERANCE
        assert np.abs(found_weight[index] - weight).max() < TOLERANCE


def test_reassembly_applies_distinct_offsets(in_tensorflow: Any) -> None:
    patches, one = CASES["seed"]["patches"], np.count_nonzero(CASES["seed"]["patches"][0])
    for found in (in_torch(CASES["seed"])[0], in_tensorflow["seed/object"], reference(CASES["seed"])[0]):
        assert np.count_nonzero(found) == 2 * one > np.count_nonzero(patches[0])
        rows, columns = np.nonzero(found)
        # The second square begins (12, 12) after the first in its patch, and its patch lies (40, 30) further.
        assert (columns.max() - columns.min(), rows.max() - rows.min()) == (12 + 40 + 3, 12 + 30 + 3)


def test_reassembly_of_distinct_offsets_is_larger_than_a_patch(in_tensorflow: Any) -> None:
    for found in (in_torch(CASES["seed"])[0], in_tensorflow["seed/object"], reference(CASES["seed"])[0]):
        assert found.shape == (72, 72)  # 32 + 2 * 20, where a patch has 64


@pytest.mark.parametrize("name", CASES)
def test_torch_and_tensorflow_have_equal_support(name: str, in_tensorflow: Any) -> None:
    torch_support, tensorflow_support = in_torch(CASES[name])[0] != 0, in_tensorflow[f"{name}/object"] != 0
    assert torch_support.sum() > 0
    assert (torch_support == tensorflow_support).all()
    assert (torch_support == (reassemble_numpy(**CASES[name])[0] != 0)).all()


def test_a_bright_patch_lies_where_its_offset_says(in_tensorflow: Any) -> None:
    bright = CASES["one bright patch"]
    for found in (in_torch(bright)[0], in_tensorflow["one bright patch/object"], reference(bright)[0]):
        rows, columns = np.nonzero(np.abs(found) > 1e-3)
        x, y = bright["offsets"][3] - bright["offsets"].mean(axis=0)
        centre = found.shape[-1] // 2
        # The bright pixels are columns 4-8 and rows 4-6 of a patch whose centre is pixel 8.
        assert (columns.min(), columns.max()) == (centre + np.floor(x) - 4, centre + np.ceil(x))
        assert (rows.min(), rows.max()) == (centre + np.floor(y) - 4, centre + np.ceil(y) - 2)


@pytest.mark.parametrize("wrong", ["sign", "axes"])
def test_a_wrong_sign_and_a_wrong_order_of_axes_do_not_pass(wrong: str) -> None:
    bright = CASES["one bright patch"]
    offsets = -bright["offsets"] if wrong == "sign" else bright["offsets"][:, ::-1]
    expected = reference(bright)[0]
    mistaken = in_torch({**bright, "offsets": np.ascontiguousarray(offsets), "canvas": len(expected)})[0]
    assert np.linalg.norm(mistaken - expected) > np.linalg.norm(expected)
