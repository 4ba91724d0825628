"""Exported programs (torch.export, .pt2) in a TorchServe beside this process.

A version is packed into an archive with the one handler, registered, and gets our whole batches, one in one prediction: what is laid
together, what has expired and what is tried again is decided in our batcher alone. Tensors travel as safetensors.
"""

from pathlib import Path

from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from model_store.manifest import Manifest
from model_store.torchserve import pack_mar
from services.inference.runtimes.runtime import RuntimeOptions, Tensors
from services.inference.settings import InferenceSettings
from services.inference.spans import remote_call
from services.inference.torchserve.dialled import DialledTorchServe
from services.inference.torchserve.keeper import Backend, Keeper, Registration
from services.inference.torchserve.owners import name_for
from services.inference.torchserve.process import TorchServeProcess

GRAPH = ".pt2"
"""A program with its weights."""
HANDLER = Path(__file__).parents[1] / "torchserve" / "handler.py"
CALLS_PER_WORKER = 2
"""While a worker computes one batch, the next is on its way through Java: a worker is never idle while requests wait."""
WORKER_BYTES = 350_000_000
"""A Python worker that has imported torch."""
LOAD_FACTOR = 3
"""A worker holds the file, its weights, and a copy while it loads."""


class TorchServeModel:
    """A version in TorchServe.

    Args:
        keeper: Of TorchServe.
        registration: What TorchServe knows it as.
        archive: Its file; removed with it.
    """

    def __init__(self, keeper: Keeper, registration: Registration, archive: Path) -> None:
        self._keeper = keeper
        self._registration = registration
        self._archive = archive

    def run(self, inputs: Tensors) -> Tensors:
        """Compute one batch."""
        tensors = save_tensors(dict(inputs))
        with remote_call("torchserve predict", {"rpc.system": "grpc", "rpc.method": "Predictions", "torchserve.bytes": len(tensors)}):
            answer = self._keeper.predict(self._registration, tensors)
        return load_tensors(answer)

    def close(self) -> None:
        """Unregister it."""
        self._keeper.remove(self._registration)
        self._archive.unlink(missing_ok=True)


class TorchServeRuntime:
    """Loads exported programs.

    Args:
        backend: The TorchServe.
        settings: Of the server.
    """

    in_process = False

    def __init__(self, backend: Backend, settings: InferenceSettings) -> None:
        self.instances = CALLS_PER_WORKER * settings.torchserve.workers
        self._keeper = Keeper(backend, settings.torchserve)

    def memory_for(self, graph_bytes: int) -> int:
        """Return the most bytes of memory that a worker takes up."""
        return WORKER_BYTES + LOAD_FACTOR * graph_bytes

    def load(self, manifest: Manifest, graph: Path, options: RuntimeOptions) -> TorchServeModel:
        """Pack, register, and wait for the workers.

        Raises:
            FailedPreconditionError: A worker cannot load the graph, or TorchServe is not installed.
            DataLossError: The graph is not the one of the manifest.
            ResourceExhaustedError: The disk of the model store is full.
            UnavailableError: TorchServe does not start, or cannot be reached.
        """
        name = name_for(manifest.model, manifest.version or 0, self._keeper.owner)
        registration = Registration(name, workers=-(-options.instances // CALLS_PER_WORKER))
        archive = self._keeper.model_store / registration.archive
        try:
            pack_mar(manifest, graph, HANDLER, archive, name=name, threads=options.threads)
            with remote_call("torchserve register", {"rpc.system": "grpc", "rpc.method": "RegisterModel"}):
                self._keeper.add(registration)
        except BaseException:
            archive.unlink(missing_ok=True)
            raise
        return TorchServeModel(self._keeper, registration, archive)

    def close(self) -> None:
        """End TorchServe."""
        self._keeper.close()


def create(settings: InferenceSettings) -> TorchServeRuntime:
    """Return the runtime of a server: with a TorchServe of our own, or with the one that the settings name."""
    told = settings.torchserve
    if told.address and told.model_store:
        return TorchServeRuntime(DialledTorchServe(told, told.model_store), settings)
    log_file = told.log_file or settings.cache_dir.expanduser() / "torchserve.log"
    return TorchServeRuntime(TorchServeProcess(log_file, threads=settings.threads, start_timeout_s=told.start_timeout_s), settings)
