"""ONNX graphs in this process, on onnxruntime."""

import ctypes
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
import structlog

from model_store.manifest import Manifest, TensorSpec
from services.inference.metrics import ONNXRUNTIME_SESSIONS
from services.inference.runtimes.runtime import RuntimeOptions, Tensors
from services.inference.settings import InferenceSettings
from tessera.errors import FailedPreconditionError
from tessera.memory import return_freed_memory
from tessera.tensors import DTYPES, Array

log = structlog.get_logger()

GRAPH = ".onnx"
"""It holds its weights."""
PREFERRED_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
DATA_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
BF16 = DTYPES["BF16"]
ONNX_BFLOAT16 = 16
"""Its number in ONNX's TensorProto."""

LOAD_FACTOR = 5
"""Memory while a graph is loaded over its size: 1.2 measured for matrices, up to 4.7 for convolutions, whose weights are packed anew."""


class OnnxModel:
    """One session. `InferenceSession.run` may be called by several threads.

    Args:
        path: The graph.
        outputs: Names of the outputs to compute.
        options: What the server grants.
    """

    def __init__(self, path: Path, outputs: list[str], options: RuntimeOptions) -> None:
        asked = [provider for provider in PREFERRED_PROVIDERS if provider in ort.get_available_providers()]
        self._session = ort.InferenceSession(path, sess_options=_session_options(options), providers=asked)
        self._outputs = outputs
        # A provider that is available may still not work (no GPU, no driver): only the session knows what it got.
        self._provider = self._session.get_providers()[0]
        if self._provider != asked[0]:
            log.warning("the preferred execution provider does not work on this machine", asked=asked[0], got=self._provider)
        ONNXRUNTIME_SESSIONS.labels(self._provider).inc()
        return_freed_memory()  # reading and packing the weights took several times what they take now

    def declared(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the graph's inputs and outputs: name to data type as in the manifest."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        return {node.name: DATA_TYPES.get(node.type, node.type) for node in inputs}, {
            node.name: DATA_TYPES.get(node.type, node.type) for node in outputs
        }

    @cached_property
    def _has_bf16(self) -> bool:
        return any("BF16" in types.values() for types in self.declared())

    def run(self, inputs: Tensors) -> Tensors:
        """Compute one batch."""
        if self._has_bf16:
            return self._run_bf16(inputs)
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def _run_bf16(self, inputs: Tensors) -> Tensors:
        """Compute a batch of a graph with BF16, which onnxruntime takes and gives in values of its own instead of numpy arrays."""
        plain = {name: np.ascontiguousarray(array).view(np.uint16) if array.dtype == BF16 else array for name, array in inputs.items()}
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, ONNX_BFLOAT16)
            if inputs[name].dtype == BF16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in plain.items()
        }
        results = self._session.run_with_ort_values(self._outputs, values)  # `plain` holds the elements meanwhile
        return {name: _array_of(value) for name, value in zip(self._outputs, results, strict=True)}

    def close(self) -> None:
        """Drop the session, and with it its weights and its arena."""
        del self._session
        ONNXRUNTIME_SESSIONS.labels(self._provider).dec()
        return_freed_memory()


class OnnxRuntime:
    """Loads ONNX graphs.

    Args:
        instances: Calls of `run` at the same time that suit a model which asks for no number.
    """

    in_process = True

    def __init__(self, instances: int) -> None:
        self.instances = instances
        ort.preload_dlls()  # the CUDA libraries that came as wheels; without CUDA nothing happens

    def memory_for(self, graph_bytes: int) -> int:
        """Return the most bytes of memory that loading takes."""
        return LOAD_FACTOR * graph_bytes

    def load(self, manifest: Manifest, graph: Path, options: RuntimeOptions) -> OnnxModel:
        """Load a graph and compare its tensors with those that the manifest declares.

        Raises:
            FailedPreconditionError: onnxruntime cannot load it, or its tensors are others.
        """
        try:
            model = OnnxModel(graph, [spec.name for spec in manifest.outputs], options)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise FailedPreconditionError(f"onnxruntime cannot load {graph.name}: {error}") from error
        declared_inputs, declared_outputs = model.declared()
        try:
            _check_declared("inputs", declared_inputs, manifest.inputs)
            _check_declared("outputs", declared_outputs, manifest.outputs)
        except FailedPreconditionError:
            model.close()
            raise
        return model

    def close(self) -> None:
        """Nothing outlives the sessions."""


def create(settings: InferenceSettings) -> OnnxRuntime:
    """Return the runtime of a server."""
    return OnnxRuntime(settings.instances)


def _array_of(value: ort.OrtValue) -> Array:
    if value.element_type() != ONNX_BFLOAT16:
        return np.asarray(value.numpy())
    shape = value.shape()
    elements = ctypes.string_at(value.data_ptr(), math.prod(shape) * BF16.itemsize)  # a copy: the value dies here
    return np.frombuffer(elements, BF16).reshape(shape)


def _session_options(options: RuntimeOptions) -> ort.SessionOptions:
    session = ort.SessionOptions()
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.log_severity_level = 3  # errors; they are raised as well
    # Spinning threads would eat the CPU quota of the event loop while no request is there.
    session.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena is for what each batch needs. Weights that were cut out of it would keep its large regions from being given back.
    session.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return session


def _check_declared(what: str, graph: dict[str, str], manifest: Sequence[TensorSpec]) -> None:
    declared = {spec.name: spec.data_type for spec in manifest}
    if graph != declared:
        raise FailedPreconditionError(f"the graph's {what} are {graph}, the manifest declares {declared}")
