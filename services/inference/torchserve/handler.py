"""The one handler for all our models in TorchServe: moves tensors in and out. It is packed into every archive and runs in TorchServe's
Python workers, where nothing of Tessera but this file and the graph is needed.

A request is one batch: `tensors` holds the inputs as safetensors, the answer holds the outputs. `tessera.json` beside this file says which
graph to load, its digest, the names of the tensors in the graph's order, and the threads that the worker may use.
"""

import hashlib
import json
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch.export.passes import move_to_device_pass
from ts.utils.util import PredictionException  # type: ignore[import-untyped]


class TensorHandler:
    """A graph in a worker."""

    def initialize(self, context: Any) -> None:
        """Load the graph of the archive that was unpacked; RuntimeError if its digest is not the one in the archive's description."""
        directory = Path(context.system_properties["model_dir"])
        description = json.loads((directory / "tessera.json").read_bytes())
        graph = directory / description["graph"]
        with graph.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != description["sha256"]:  # a .pt2 is code: only what the registry knows is loaded
            raise RuntimeError(f"{graph.name} has the digest {digest}, not {description['sha256']}")
        gpu = context.system_properties.get("gpu_id")
        self._device = torch.device("cuda", int(gpu)) if gpu is not None and torch.cuda.is_available() else torch.device("cpu")
        torch.set_num_threads(description["threads"])
        self._inputs, self._outputs = description["inputs"], description["outputs"]
        # Moving the module alone would leave the devices that stand in the program itself, as in its checks of tensors.
        self._network = move_to_device_pass(torch.export.load(graph), self._device).module()

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Compute every request and return its answer; TorchServe is told to give us one at a time."""
        try:
            return [self._compute(bytes(request["tensors"])) for request in requests]
        except Exception as error:
            traceback.print_exc()  # standard error is what TorchServe logs at WARN
            raise PredictionException(f"{type(error).__name__}: {error}") from error

    def _compute(self, data: bytes) -> bytes:
        tensors = load(data)
        with torch.inference_mode():
            found = self._network(*(tensors[name].to(self._device) for name in self._inputs))
        answers = found if isinstance(found, tuple | list) else (found,)
        return bytes(save({name: answer.contiguous().cpu() for name, answer in zip(self._outputs, answers, strict=True)}))
