"""Requests of the protocol to the inputs of one version, and its outputs to answers."""

import math
from collections.abc import Sequence

from model_store.manifest import Manifest
from services.inference.calls import Prediction
from services.inference.open_inference.specs import InputSpec, refuse_names
from services.inference.runtimes.runtime import Tensors
from tessera.api.openinference.v2.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from tessera.errors import InvalidArgumentError
from tessera.tensors import MAX_DIMENSIONS, Array, to_bytes

QUICK_RAW = 1 << 20
QUICK_OTHERS = 1 << 13
"""Up to so many elements are read in a millisecond or two: raw numbers, and numbers of protobuf or strings, which are read one by one."""


class Codec:
    """Made once for every loaded version, so that a request looks nothing up in its manifest.

    Args:
        manifest: Of the version.
        version: Its number.
        digest: Of its manifest.
    """

    __slots__ = ("_has_strings", "_inputs", "_names", "_outputs", "_template")

    def __init__(self, manifest: Manifest, version: int, digest: str) -> None:
        self._inputs = {spec.name: InputSpec(spec) for spec in manifest.inputs}
        self._has_strings = any(spec.data_type == "BYTES" for spec in manifest.inputs)
        self._names = tuple(spec.name for spec in manifest.outputs)
        self._outputs = {spec.name: spec.data_type for spec in manifest.outputs}
        self._template = ModelInferResponse(model_name=manifest.model, model_version=str(version))
        self._template.parameters["digest"].string_param = digest

    def wanted(self, request: ModelInferRequest) -> Sequence[str]:
        """Return the names of the outputs to answer; InvalidArgumentError if the model lacks one or one is asked for twice."""
        if not request.outputs:
            return self._names
        names = [output.name for output in request.outputs]
        if len(set(names)) != len(names) or not self._outputs.keys() >= set(names):
            raise refuse_names("outputs", names, self._names)
        return names

    def is_quick(self, request: ModelInferRequest) -> bool:
        """Tell whether a request can be decoded on the event loop without holding up others."""
        # No more extents are looked at than a tensor may have: the product of a million, in integers without bounds, takes hours.
        elements = sum([abs(math.prod(tensor.shape[:MAX_DIMENSIONS])) for tensor in request.inputs])
        return elements <= (QUICK_RAW if request.raw_input_contents and not self._has_strings else QUICK_OTHERS)

    def decode(self, request: ModelInferRequest) -> Tensors:
        """Return every input of the model by its name.

        Raises:
            InvalidArgumentError: Inputs are missing, unknown, there twice or with different batches, or one is not as the model wants it.
        """
        tensors, raw = request.inputs, request.raw_input_contents
        if len(tensors) != len(self._inputs):
            raise self._refused(tensors)
        if raw and len(raw) != len(tensors):
            message = f"{len(raw)} raw contents for {len(tensors)} inputs; send one for each, or none at all"
            raise InvalidArgumentError(message, field="raw_input_contents")
        arrays: dict[str, Array] = {}
        for index, tensor in enumerate(tensors):
            spec = self._inputs.get(tensor.name)
            if spec is None or spec.name in arrays:
                raise self._refused(tensors)
            arrays[spec.name] = spec.read_raw(tensor, raw[index], index) if raw else spec.read_typed(tensor, index)
        if len(arrays) > 1:
            _check_rows(arrays)
        return arrays

    def answer(self, request: ModelInferRequest, prediction: Prediction, outputs: Tensors, wanted: Sequence[str]) -> ModelInferResponse:
        """Return the answer, signed. All elements are raw, whatever the request had: that is cheapest for both sides."""
        response = ModelInferResponse()
        response.CopyFrom(self._template)
        response.id = request.id
        for name in wanted:
            array = outputs[name]
            response.outputs.add(name=name, datatype=self._outputs[name], shape=array.shape)
            response.raw_output_contents.append(to_bytes(array))
        signature = prediction.signature()
        parameters = response.parameters
        parameters["runtime"].string_param = signature.runtime
        parameters["batch_size"].int64_param = signature.batch_size
        parameters["decode_ns"].int64_param = int(signature.decode_s * 1e9)
        parameters["queue_ns"].int64_param = int(signature.queue_s * 1e9)
        parameters["compute_ns"].int64_param = int(signature.compute_s * 1e9)
        return response

    def _refused(self, tensors: Sequence[ModelInferRequest.InferInputTensor]) -> InvalidArgumentError:
        return refuse_names("inputs", [tensor.name for tensor in tensors], tuple(self._inputs))


def _check_rows(arrays: Tensors) -> None:
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in rows.items())
        raise InvalidArgumentError(f"all inputs need the same batch (first axis); these have {listed}", field="inputs")
