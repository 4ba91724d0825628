"""The handler of TorchServe when it is called directly: onnxruntime or torch, whichever the archive's file is for.

TorchServe copies this file into the archive and imports it by itself, so it imports nothing of ours.
"""

from pathlib import Path
from typing import Any

import numpy as np


class Handler:
    """Computes TorchServe's batches; the bytes of each request are FP32 pieces."""

    def initialize(self, context: Any) -> None:
        """Load the archive's model, for one thread."""
        file = Path(context.system_properties["model_dir"]) / context.manifest["model"]["serializedFile"]
        self._run = _onnx(file) if file.suffix == ".onnx" else _torch(file)

    def handle(self, data: list[dict[str, bytes]], context: Any) -> list[bytes]:
        """Compute one batch."""
        pieces = [np.frombuffer(one["data"], np.float32).reshape(-1, 3, 64, 64) for one in data]
        ends = np.cumsum([len(piece) for piece in pieces])
        return [rows.tobytes() for rows in np.split(self._run(np.concatenate(pieces)), ends[:-1])]


def _onnx(file: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pieces: session.run(None, {"image": pieces})[0]


def _torch(file: Path) -> Any:
    import torch

    torch.set_num_threads(1)
    network = torch.export.load(file).module()

    def run(pieces: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(pieces)).numpy()

    return run
