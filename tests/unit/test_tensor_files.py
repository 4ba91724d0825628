"""Tensors in files that are read and written a few rows at a time."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.tensor_files import TYPES, TensorFileReader, TensorFileWriter, dump_tensors, load_tensors


def tensors(rows: int) -> dict[str, np.ndarray]:
    """Return a tensor of every type, each with other extents."""
    random = np.random.default_rng(rows)
    return {
        name.lower(): random.integers(0, 2, (rows, *range(2, 2 + index % 3))).astype(dtype)
        for index, (name, dtype) in enumerate(TYPES.items())
    }


@given(rows=st.integers(1, 9), step=st.integers(1, 9))
def test_what_is_written_in_parts_in_any_order_is_read_in_parts(tmp_path_factory: pytest.TempPathFactory, rows: int, step: int) -> None:
    path, whole = tmp_path_factory.mktemp("files") / "t.safetensors", tensors(rows)
    with TensorFileWriter(path, rows, {name: array[:1] for name, array in whole.items()}) as writer:
        for first in reversed(range(0, rows, step)):
            writer.write(first, {name: array[first : first + step] for name, array in whole.items()})
    with TensorFileReader(path) as reader:
        assert (reader.rows, reader.shapes) == (rows, {name: array.shape for name, array in whole.items()})
        assert reader.row_bytes == sum(array[0].nbytes for array in whole.values())
        for first in range(0, rows, step):
            for name, part in reader.read(first, first + step).items():
                assert part.dtype == whole[name].dtype
                np.testing.assert_array_equal(part, whole[name][first : first + step])


def test_the_files_are_those_of_the_library(tmp_path: Path) -> None:
    whole = {name: array for name, array in tensors(4).items() if array.dtype != ml_dtypes.bfloat16}
    with TensorFileWriter(tmp_path / "ours", 4, whole) as writer:
        writer.write(0, whole)
    save_file(whole, tmp_path / "theirs")
    for found in (load_file(tmp_path / "ours"), load_tensors(tmp_path / "theirs")):
        assert found.keys() == whole.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, whole[name])


def test_equal_tensors_make_equal_bytes() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 2), np.int64)
    assert dump_tensors({"a": a, "b": b}) == dump_tensors({"b": b.copy(order="F"), "a": np.asfortranarray(a)})
    with pytest.raises(InvalidArgumentError, match="cannot hold"):
        dump_tensors({"text": np.array(["a"], dtype=object)})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "there is no tensor"),
        ({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, "these have a: 2, b: 3"),
        ({"a": np.zeros(())}, "these have a: 0"),
        ({"a": np.zeros((0, 3))}, "these have a: 0"),
    ],
)
def test_tensors_without_common_rows_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    save_file(arrays, tmp_path / "t")
    with pytest.raises(InvalidArgumentError, match=message):
        TensorFileReader(tmp_path / "t")


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 64, dump_tensors({"a": np.zeros((4, 4))})[:-1]])
def test_what_is_no_such_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(InvalidArgumentError, match="not a safetensors file"):
        TensorFileReader(tmp_path / "t", "blob")


def test_outputs_that_change_from_part_to_part_or_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    with TensorFileWriter(tmp_path / "t", 4, {"a": np.zeros((2, 3))}) as writer:
        for other in ({"a": np.zeros((2, 4))}, {"a": np.zeros((2, 3), np.float32)}, {}):
            with pytest.raises(FailedPreconditionError, match="a changes from one part of the rows to the next"):
                writer.write(2, other)
    with pytest.raises(FailedPreconditionError, match="cannot hold"):
        TensorFileWriter(tmp_path / "u", 4, {"a": np.array([["x"]], dtype=object)})


def test_tensors_of_different_lengths_are_read_as_a_whole(tmp_path: Path) -> None:
    save_file({"object": np.ones((3, 4)), "corner": np.ones(2), "error": np.ones(())}, tmp_path / "t")
    assert {name: array.shape for name, array in load_tensors(tmp_path / "t").items()} == {"object": (3, 4), "corner": (2,), "error": ()}


def test_more_dimensions_than_any_model_has_are_refused(tmp_path: Path) -> None:
    save_file({"x": np.zeros((1,) * 9, np.float32)}, tmp_path / "deep")
    with pytest.raises(InvalidArgumentError, match="9 dimensions; at most 8") as caught:
        TensorFileReader(tmp_path / "deep")
    assert caught.value.field == "inputs.x"


def test_a_bool_that_is_neither_0_nor_1_is_refused(tmp_path: Path) -> None:
    save_file({"x": np.array([0, 1, 2], np.uint8).view(np.bool_)}, tmp_path / "flags")
    with TensorFileReader(tmp_path / "flags") as reader:
        assert reader.read(0, 2)["x"].tolist() == [False, True]
        with pytest.raises(InvalidArgumentError, match="neither 0 nor 1"):
            reader.read(0, 3)
