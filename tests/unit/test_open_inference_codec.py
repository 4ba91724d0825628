"""A version's codec by itself, and the sums that its statistics are made of."""

import numpy as np
import pytest

from model_store.manifest import FileEntry, TensorSpec
from services.inference.batches import Answer
from services.inference.open_inference.codec import Codec
from services.inference.open_inference.wishes import selector
from services.inference.statistics import Statistics
from tessera.api.openinference.v2.open_inference_pb2 import ModelInferRequest
from tessera.errors import InvalidArgumentError
from tests.fixtures.inference import manifest_of

FILES = (
    FileEntry(path="model.onnx", sha256="0" * 64, size_bytes=1, role="graph"),
    FileEntry(path="golden.safetensors", sha256="0" * 64, size_bytes=1, role="golden"),
)


def codec(*shape: int) -> Codec:
    return Codec(manifest_of("m", FILES, inputs=(TensorSpec(name="x", data_type="FP32", shape=shape),)), 3, "digest")


def request(*shape: int) -> ModelInferRequest:
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape)
    return ModelInferRequest(inputs=[tensor], raw_input_contents=[np.zeros(shape, np.float32).tobytes()])


def test_the_first_request_is_checked_like_all_others() -> None:
    for wrong in ((), (3,), (1, 4), (0, 3)):
        with pytest.raises(InvalidArgumentError, match="shape"):
            codec(-1, 3).decode(request(*wrong))


def test_a_shape_that_was_accepted_lets_no_other_pass() -> None:
    found = codec(-1, 3)
    for rows in (1, 2, 1):
        assert found.decode(request(rows, 3))["x"].shape == (rows, 3)
        with pytest.raises(InvalidArgumentError):
            found.decode(request(rows, 4))


def test_elements_are_not_copied() -> None:
    assert not codec(-1, 3).decode(request(2, 3))["x"].flags.owndata


def test_what_takes_long_to_read_is_not_read_on_the_event_loop() -> None:
    def large(*shape: int, raw: bool) -> ModelInferRequest:
        tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape)
        return ModelInferRequest(inputs=[tensor], raw_input_contents=[b""] if raw else [])

    strings = Codec(manifest_of("m", FILES, inputs=(TensorSpec(name="x", data_type="BYTES", shape=(-1, -1)),)), 3, "digest")
    assert codec(-1, -1).is_quick(large(32, 3 * 64 * 64, raw=True))
    assert not codec(-1, -1).is_quick(large(32, 3 * 64 * 64, raw=False))
    assert not codec(-1, -1).is_quick(large(2**62, 2**62, raw=True))
    assert strings.is_quick(large(32, 16, raw=True))
    assert not strings.is_quick(large(32, 3 * 64 * 64, raw=True))


@pytest.mark.parametrize(("version", "kind"), [("", None), ("7", "version"), ("champion", "alias"), ("v7", "alias"), ("\u0667", "alias")])
def test_what_a_version_means(version: str, kind: str | None) -> None:
    assert selector("m", version, "version").WhichOneof("selector") == kind


def test_batches_are_counted_once_for_all_their_requests() -> None:
    statistics = Statistics()
    output = {"y": np.zeros((2, 1))}
    for size, requests in ((1, 2), (3, 6), (4, 5)):
        for _ in range(requests):
            answer = Answer(output, size, 0.5, 1.5, "onnxruntime")
            statistics.answered(answer, 2, decode_s=0.25, encode_s=0.125, total_s=2.5)
    statistics.failed(0.5)
    assert {size: sums.batches(size) for size, sums in statistics.by_size.items()} == {1: 2, 3: 2, 4: 2}
    sums = statistics.by_size[3]
    assert (sums.requests, sums.rows, sums.decode_s, sums.queue_s, sums.compute_s, sums.encode_s, sums.total_s) == (
        6,
        12,
        1.5,
        3,
        9,
        0.75,
        15,
    )
    assert (statistics.failures, statistics.failed_s) == (1, 0.5)
    assert statistics.last_ms > 0
    assert Statistics().last_ms == 0


def test_a_shape_of_a_million_extents_is_not_multiplied_out() -> None:
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2**62] * 1_000_000)  # its product takes an hour
    endless = ModelInferRequest(inputs=[tensor], raw_input_contents=[b""])
    codec(-1, 3).is_quick(endless)
    with pytest.raises(InvalidArgumentError, match="1000000 dimensions"):
        codec(-1, 3).decode(endless)


def test_an_extent_below_0_does_not_make_a_large_request_small() -> None:
    tensors = [ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape) for shape in ((2**40, 1), (-(2**40), 1))]
    assert not codec(-1, 3).is_quick(ModelInferRequest(inputs=tensors))


@pytest.mark.parametrize(("name", "version", "field"), [("x" * 129, "", "model_name"), ("m", "a" * 129, "model_version")])
def test_a_name_that_is_too_long_is_refused_and_not_kept(name: str, version: str, field: str) -> None:
    kept = selector.cache_info().currsize
    with pytest.raises(InvalidArgumentError, match="at most 128 characters") as caught:
        selector(name, version, "model_version")
    assert caught.value.field == field
    assert selector.cache_info().currsize == kept
