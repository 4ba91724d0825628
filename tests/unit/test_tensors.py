"""Tensors on the wire: what comes out is what went in, and what does not fit is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tessera.api.common.v1 import common_pb2
from tessera.errors import InvalidArgumentError
from tessera.tensors import DTYPES, FLOATS, TensorSpec, check_array, from_proto, to_bytes, to_proto, type_name

SPEC = TensorSpec("image", "FP32", (-1, 3, 4))
FP32 = common_pb2.DATA_TYPE_FP32


def refused(tensor: common_pb2.Tensor) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        from_proto(tensor, "piece.tensor")
    assert caught.value.field.startswith("piece.tensor.")
    return caught.value


def arrays(name: str) -> st.SearchStrategy[np.ndarray]:
    """Return small arrays of any shape and of this element type."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)
    if name == "BF16":  # hypothesis does not know it
        return hnp.arrays(np.float32, shapes, elements=st.floats(-1e9, 1e9, width=32)).map(lambda array: array.astype(DTYPES["BF16"]))
    if name == "BYTES":
        return hnp.arrays(np.object_, shapes, elements=st.text(st.characters(codec="utf-8"), max_size=5))
    return hnp.arrays(DTYPES[name], shapes)


@given(st.sampled_from(sorted(DTYPES)).flatmap(arrays))
def test_an_array_survives_the_wire(array: np.ndarray) -> None:
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, posinf=1, neginf=-1)
    found = from_proto(to_proto(array), "t")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)


def test_an_array_in_another_memory_order_survives_the_wire() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    assert np.array_equal(from_proto(to_proto(array), "t"), array)


def test_every_type_of_the_protocol_is_known() -> None:
    assert {f"DATA_TYPE_{name}" for name in DTYPES} == set(common_pb2.DataType.keys()) - {"DATA_TYPE_UNSPECIFIED"}


def test_an_element_type_without_a_protocol_name_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="complex128"):
        type_name(np.dtype(np.complex128))


@pytest.mark.parametrize("number", [0, 99])
def test_an_unknown_data_type_is_refused_and_the_known_are_listed(number: int) -> None:
    assert "FP32" in refused(common_pb2.Tensor(data_type=number, shape=[1], data=bytes(4))).message


@pytest.mark.parametrize("shape", [[0], [-1], [2, 0]])
def test_extents_below_one_are_refused(shape: list[int]) -> None:
    assert "below 1" in refused(common_pb2.Tensor(data_type=FP32, shape=shape)).message


@pytest.mark.parametrize("size", [0, 3, 15, 17])
def test_a_number_of_bytes_that_does_not_fit_is_refused(size: int) -> None:
    assert "needs 16" in refused(common_pb2.Tensor(data_type=FP32, shape=[2, 2], data=bytes(size))).message


@pytest.mark.parametrize("shape", [[2**62, 4], [2**32, 2**32], [2**63 - 1] * 8])
def test_a_shape_whose_product_overflows_is_refused(shape: list[int]) -> None:
    assert "bytes came" in refused(common_pb2.Tensor(data_type=FP32, shape=shape)).message


def test_too_many_dimensions_are_refused() -> None:
    assert "9 dimensions" in refused(common_pb2.Tensor(data_type=FP32, shape=[1] * 9, data=bytes(4))).message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", sorted(FLOATS, key=str))
def test_nan_and_infinity_are_refused(value: float, dtype: np.dtype) -> None:
    assert "NaN or infinity" in refused(to_proto(np.array([0, value], dtype=dtype))).message


def test_a_boolean_of_two_is_refused() -> None:
    assert "neither 0 nor 1" in refused(common_pb2.Tensor(data_type=common_pb2.DATA_TYPE_BOOL, shape=[2], data=b"\1\2")).message


@given(st.integers(0, 14), st.lists(st.integers(-2, 2**63 - 1), max_size=10), st.binary(max_size=64))
def test_random_messages_give_an_array_or_a_refusal(number: int, shape: list[int], data: bytes) -> None:
    try:
        array = from_proto(common_pb2.Tensor(data_type=number, shape=shape, data=data), "t")
    except InvalidArgumentError:
        return
    assert to_bytes(array) == data


def test_an_array_as_declared_is_accepted() -> None:
    check_array(np.zeros((5, 3, 4), dtype=np.float32), SPEC, "t")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((5, 3, 4)), "element type float64; FP32 is needed"),
        (np.zeros((5, 4, 4), np.float32), r"shape \[5, 4, 4\]"),
        (np.zeros((3, 4), np.float32), r"shape \[3, 4\]"),
        (np.zeros((0, 3, 4), np.float32), r"shape \[0, 3, 4\]"),
    ],
)
def test_another_type_or_shape_is_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        check_array(array, SPEC, "t")


def test_a_declaration_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown element type"):
        check_array(np.zeros(1, np.float32), TensorSpec("x", "FP8", (1,)), "t")
