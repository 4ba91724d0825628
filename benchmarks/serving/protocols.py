"""How each kind of server is asked, and how its answers are read: requests are made before the measurement, answers read after it."""

import io
from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

from benchmarks.serving.network import INPUTS, Array, logits, pictures, tensors
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest, ClassifyCellResponse
from tessera.api.openinference.v2.open_inference_pb2 import ModelInferRequest, ModelInferResponse

TOLERANCE = 1e-3
"""Two runtimes and two batch sizes add in different orders; logits here are of the order of 1."""
PHASES = ("decode", "queue", "compute", "encode")


class Protocol(ABC):
    """One way to ask.

    Args:
        model: Name of the model at the server.
        items: Pieces in a request.
    """

    method: str
    """Path of the gRPC method."""

    def __init__(self, model: str, items: int) -> None:
        self.model = model
        self.items = items
        rows = np.arange(items)
        self._expected = [logits()[(first + rows) % INPUTS] for first in range(INPUTS)]

    @abstractmethod
    def requests(self) -> list[bytes]:
        """Return INPUTS different requests as they go over the wire."""

    @abstractmethod
    def answer(self, data: bytes) -> Array:
        """Return what can be compared with `expected`."""

    def expected(self, number: int) -> Array:
        """Return the right answer to request number n."""
        return self._expected[number % INPUTS]

    def is_right(self, number: int, data: bytes) -> bool:
        """Tell whether this is the right answer to request number n."""
        answer, expected = self.answer(data), self.expected(number)
        return answer.shape == expected.shape and np.allclose(answer, expected, atol=TOLERANCE, rtol=TOLERANCE)

    def phases_ms(self, data: bytes) -> dict[str, float]:
        """Return where the server says that the time went, in milliseconds by phase."""
        return {}


class OpenInference(Protocol):
    """ModelInfer with raw contents."""

    method = "/inference.GRPCInferenceService/ModelInfer"

    def requests(self) -> list[bytes]:
        """Return the pieces as FP32 tensors."""
        return [self._request(array).SerializeToString() for array in tensors(self.items)]

    def answer(self, data: bytes) -> Array:
        """Return the logits, one row a piece."""
        response = ModelInferResponse.FromString(data)
        return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)

    def phases_ms(self, data: bytes) -> dict[str, float]:
        """Return what the parameters of the answer say."""
        parameters = ModelInferResponse.FromString(data).parameters
        return {phase: parameters[f"{phase}_ns"].int64_param / 1e6 for phase in PHASES if f"{phase}_ns" in parameters}

    def _request(self, array: Array) -> ModelInferRequest:
        request = ModelInferRequest(model_name=self.model, raw_input_contents=[array.tobytes()])
        request.inputs.add(name="image", datatype="FP32", shape=array.shape)
        return request


class Echo(OpenInference):
    """The same requests, to a server that answers zeros."""

    def expected(self, number: int) -> Array:
        """Return zeros, as many as there would be logits."""
        return np.zeros_like(super().expected(number))

    def phases_ms(self, data: bytes) -> dict[str, float]:
        """Return nothing: it has none."""
        return {}


class TypedPng(Protocol):
    """ClassifyCell with a PNG file; takes one piece a request."""

    method = "/tessera.api.inference.v1.PuzzleService/ClassifyCell"

    def requests(self) -> list[bytes]:
        """Return the pieces as PNG files."""
        return [self._request(picture).SerializeToString() for picture in pictures()]

    def answer(self, data: bytes) -> Array:
        """Return index and probability of the best cells."""
        cells = ClassifyCellResponse.FromString(data).candidates
        return np.array([[cell.index, cell.probability] for cell in cells], np.float32)

    def expected(self, number: int) -> Array:
        """Return index and probability of the best five cells."""
        powers = np.exp(super().expected(number)[0] - super().expected(number)[0].max())
        best = np.argsort(-powers, kind="stable")[:5]
        return np.stack([best, (powers / powers.sum())[best]], axis=1).astype(np.float32)

    def phases_ms(self, data: bytes) -> dict[str, float]:
        """Return what `answered_by` says."""
        answered_by = ClassifyCellResponse.FromString(data).answered_by
        return {phase: getattr(answered_by, phase).ToNanoseconds() / 1e6 for phase in PHASES}

    def _request(self, picture: Image.Image) -> ClassifyCellRequest:
        file = io.BytesIO()
        picture.save(file, "PNG")
        request = ClassifyCellRequest(image=file.getvalue())
        request.model.model = self.model
        return request


class TorchServe(Protocol):
    """TorchServe's own Predictions: PredictionsRequest {1: model_name, 3: map of bytes}, PredictionResponse {1: bytes}."""

    method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

    def requests(self) -> list[bytes]:
        """Return the pieces as bare bytes under the key `data`."""
        name = _field(1, self.model.encode())
        return [name + _field(3, _field(1, b"data") + _field(2, array.tobytes())) for array in tensors(self.items)]

    def answer(self, data: bytes) -> Array:
        """Return the logits, one row a piece."""
        body = data[1:].lstrip(bytes(range(0x80, 0x100)))[1:]  # after the tag comes the length: bytes with the top bit, then one without
        return np.frombuffer(body, "<f4").reshape(self.items, -1)


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    length, size = bytearray(), len(data)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((number << 3 | 2, *length, size)) + data


PROTOCOLS = {"oip": OpenInference, "echo": Echo, "png": TypedPng, "torchserve": TorchServe}
"""By the name that a `Target` carries."""
