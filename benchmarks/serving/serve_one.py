"""Serves one ONNX file by a registry and an inference service of its own, so that other load generators can measure the service.

    python -m benchmarks.serving.serve_one --listen 127.0.0.1:8001 --model m=m.onnx

Clients ask it by the Open Inference Protocol for the model `m`. It stays in the foreground and ends on SIGTERM.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.serving.network import Array
from benchmarks.serving.publishing import publish
from services.inference.runtimes.onnxruntime import DATA_TYPES
from tests.fixtures.registry import RegistryProcess

ROWS = 4
"""In the golden example."""


def examples(session: ort.InferenceSession) -> dict[str, Array]:
    """Return random inputs, and the outputs that belong to them."""
    random = np.random.default_rng(0)
    inputs = {node.name: random.uniform(0, 1, (ROWS, *node.shape[1:])).astype(np.float32) for node in session.get_inputs()}
    names = [node.name for node in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    return {f"inputs.{name}": array for name, array in inputs.items()} | {f"outputs.{name}": array for name, array in outputs.items()}


def specs(nodes: list[ort.NodeArg]) -> tuple[dict[str, object], ...]:
    """Return the manifest's view of the graph's inputs or outputs; the first axis is the batch, all others are fixed."""
    return tuple({"name": node.name, "data_type": DATA_TYPES[node.type], "shape": (-1, *node.shape[1:])} for node in nodes)


def serve(host: str, port: str, model: str, file: Path, folder: Path) -> int:
    """Serve until SIGTERM; returns the exit code."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    declared = {"inputs": specs(session.get_inputs()), "outputs": specs(session.get_outputs()), "mappings": {}}
    registry = RegistryProcess(folder)
    registry.start()
    try:
        graphs = {"model.onnx": file.read_bytes()}
        asyncio.run(publish(registry.address, model, graphs, examples(session), task={"name": "tensors", "revision": 1}, **declared))
        settings = {
            "HOST": host,
            "PORT": port,
            "METRICS_PORT": "none",
            "REGISTRY_ADDRESS": registry.address,
            "CACHE_DIR": f"{folder}/cache",
        }
        environment = {f"TESSERA_INFERENCE_{name}": value for name, value in settings.items()}
        with subprocess.Popen([sys.executable, "-m", "services.inference"], env=os.environ | environment) as service:
            signal.signal(signal.SIGTERM, lambda *_: service.terminate())
            return service.wait()
    finally:
        registry.stop()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--model", required=True, metavar="NAME=FILE")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    model, _, file = options.model.partition("=")
    with tempfile.TemporaryDirectory(prefix="tessera-serve-") as folder:
        raise SystemExit(serve(host, port, model, Path(file), Path(folder)))


if __name__ == "__main__":
    main()
