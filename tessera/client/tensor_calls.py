"""Any model in plain tensors, by the Open Inference Protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import numpy as np
from numpy.typing import ArrayLike

from tessera.api.openinference.v2.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from tessera.api.openinference.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tessera.client.calls import call
from tessera.client.wishes import Priority
from tessera.tensors import DTYPES, Array, from_bytes, to_bytes, type_name

if TYPE_CHECKING:
    from tessera.api.openinference.v2.open_inference_pb2_grpc import GRPCInferenceServiceAsyncStub


@dataclass(frozen=True)
class Inferred:
    """The answer of a model.

    Args:
        outputs: Its outputs by name, each with the rows of the request; read-only.
        model: Name of the model.
        version: Number of the version that answered.
        digest: Of its manifest.
        runtime: What computed it.
    """

    outputs: Mapping[str, Array]
    model: str
    version: int
    digest: str
    runtime: str


class TensorCalls:
    """The part of `InferenceClient` that asks any model.

    Args:
        channel: From `tessera.rpc.channel.open_channel`; the caller closes it.
        timeout_s: Deadline of one call, retries included.
    """

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        self.open_inference_stub: GRPCInferenceServiceAsyncStub = GRPCInferenceServiceStub(channel)
        self.timeout_s = timeout_s

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: int | None = None,
        alias: str | None = None,
        outputs: Sequence[str] = (),
        runtime: str = "",
        priority: Priority = "",
        sticky_key: str = "",
    ) -> Inferred:
        """Return what a model makes of some tensors, whatever its task.

        Args:
            model: Its name.
            inputs: Every input of the model by its name, exactly of its type; the first axis is the batch.
            version: An exact version; or
            alias: an alias. The alias `champion` if neither is given.
            outputs: Those that shall come back, in this order; all of them if empty.
            runtime: What shall compute, for example `torchserve`; what the version prefers if empty.
            priority: `high`, `normal` or `low`: who is computed first when requests wait.
            sticky_key: Calls with an equal key are answered by the same version during a rollout; at most 256 characters.

        Raises:
            InvalidArgumentError: An input is missing, unknown, or of another type or shape; the message says what is needed.
            NotFoundError: No such model, version or alias.
            ResourceExhaustedError: The queue is full.
            DeadlineExceededError: It took longer than `timeout_s`.
        """
        arrays = {name: _array(values) for name, values in inputs.items()}
        request = ModelInferRequest(
            model_name=model,
            model_version=str(version) if version is not None else alias or "",
            inputs=[_described(name, array) for name, array in arrays.items()],
            outputs=[ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
            raw_input_contents=[to_bytes(array) for array in arrays.values()],
        )
        for name, wish in (("runtime", runtime), ("priority", priority), ("sticky_key", sticky_key)):
            if wish:
                request.parameters[name].string_param = wish
        return _inferred(await call(self.open_inference_stub.ModelInfer, request, timeout_s=self.timeout_s, repeatable=True))


def _array(values: ArrayLike) -> Array:
    array: Array = np.asarray(values)
    return array.astype(DTYPES["BYTES"]) if array.dtype.kind in "US" else array


def _described(name: str, array: Array) -> ModelInferRequest.InferInputTensor:
    return ModelInferRequest.InferInputTensor(name=name, datatype=type_name(array.dtype, f"inputs.{name}"), shape=array.shape)


def _inferred(response: ModelInferResponse) -> Inferred:
    outputs = {
        tensor.name: from_bytes(data, DTYPES[tensor.datatype], tuple(tensor.shape), tensor.name)
        for tensor, data in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    parameters = response.parameters
    return Inferred(
        outputs,
        response.model_name,
        int(response.model_version),
        parameters["digest"].string_param,
        parameters["runtime"].string_param,
    )
