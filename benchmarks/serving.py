"""What serving costs: a closed loop of 1, 8 and 32 clients against the bare runtime, a bare gRPC server, and the inference service.

    python -m benchmarks.serving [--seconds 3] [--json FILE]

The network is the cell classifier of 632,566 parameters with random weights; the clients run in a process of their own. Figures of a
busy or a small machine differ by half from one run to the next: compare the rows of one run, not of two.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save

from model_store.manifest import FileEntry
from services.inference.runtimes.onnxruntime import OnnxModel
from services.inference.runtimes.runtime import RuntimeOptions
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest
from tessera.api.inference.v1.puzzle_pb2_grpc import PuzzleServiceStub
from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tessera.tasks.images import encode_png
from tessera.tensors import to_proto
from tests.fixtures.inference import InferenceProcess, manifest_of
from tests.fixtures.registry import RegistryProcess

CLIENTS = (1, 8, 32)
COLUMNS, ROWS = 38, 25
WIDTHS = (3, 32, 64, 128, 256)
MODEL = "bench"
ECHO = "/bench.Echo/Echo"
WARM_UP_S = 1.0
Call = Callable[[], Awaitable[object]]


def classifier() -> bytes:
    """Return the network as ONNX: four 3x3 convolutions of stride 2 with ReLU, global average pool, linear."""
    random = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "image"

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array((random.standard_normal(shape) / 10).astype(np.float32), name))
        return name

    for layer, (narrow, wide) in enumerate(pairwise(WIDTHS)):
        inputs = [tensor, weight(f"w{layer}", wide, narrow, 3, 3), weight(f"b{layer}", wide)]
        nodes.append(helper.make_node("Conv", inputs, [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        tensor = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", weight("w", WIDTHS[-1], COLUMNS * ROWS), weight("b", COLUMNS * ROWS)], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", COLUMNS * ROWS])],
        weights,
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    return model


def pixels() -> Any:
    """Return a piece with detail, as a photograph has, uint8 of shape (64, 64, 3)."""
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, dtype=np.int16) + random.integers(-8, 9, (64, 64, 3)), 0, 255).astype(np.uint8)


def request(kind: str) -> ClassifyCellRequest:
    """Return a request with a PNG or a tensor."""
    message = ClassifyCellRequest()
    message.model.model = MODEL
    if kind == "png":
        message.image = encode_png(Image.fromarray(pixels()))
    else:
        message.tensor.CopyFrom(to_proto(pixels().astype(np.float32) / np.float32(255)))
    return message


def row(path: str, clients: int, seconds: list[float], errors: int, wall_s: float) -> dict[str, Any]:
    """Return one line of the result."""
    return {
        "path": path,
        "clients": clients,
        "requests_per_s": round(len(seconds) / wall_s, 1),
        "p50_ms": round(float(np.percentile(seconds, 50)) * 1000, 3) if seconds else None,
        "p99_ms": round(float(np.percentile(seconds, 99)) * 1000, 3) if seconds else None,
        "errors": errors,
    }


async def closed_loop(path: str, call: Call, clients: int, duration_s: float) -> dict[str, Any]:
    """Let each client send its next request as soon as the last one is answered; a second of warm-up is not counted."""
    start = time.perf_counter() + WARM_UP_S
    end = start + duration_s
    seconds: list[float] = []
    errors = 0

    async def client() -> None:
        nonlocal errors
        while (began := time.perf_counter()) < end:
            try:
                await call()
            except grpc.RpcError:
                errors += 1
            else:
                if began >= start:
                    seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(clients)))
    return row(path, clients, seconds, errors, time.perf_counter() - start)


async def run_clients(path: str, address: str, clients: int, duration_s: float) -> dict[str, Any]:
    """Measure one path from this process."""
    message = request("png" if "PNG" in path else "tensor")
    async with grpc.aio.insecure_channel(address) as channel:
        if "echo" in path:
            data = message.SerializeToString()
            echo = channel.unary_unary(ECHO)
            return await closed_loop(path, lambda: echo(data), clients, duration_s)
        stub = PuzzleServiceStub(channel)
        return await closed_loop(path, lambda: stub.ClassifyCell(message, timeout=10), clients, duration_s)


async def serve_echo(parent: Any) -> None:
    """Answer 100 bytes to whatever comes, with nothing around it, until the parent closes the pipe."""

    async def echo(data: bytes, context: object) -> bytes:
        return data[:100]

    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(parent.read)
    await server.stop(0)


def bare_runtime(directory: Path, duration_s: float) -> list[dict[str, Any]]:
    """Measure the runtime in this process, with one thread: as many pieces at once as there would be clients."""
    (directory / "model.onnx").write_bytes(classifier())
    model = OnnxModel(directory / "model.onnx", ["logits"], RuntimeOptions(threads=1))
    piece = pixels().transpose(2, 0, 1)[np.newaxis].astype(np.float32) / np.float32(255)
    rows = []
    for clients in CLIENTS:
        batch = np.repeat(piece, clients, axis=0)
        seconds: list[float] = []
        start = time.perf_counter()
        while (began := time.perf_counter()) < start + duration_s:
            model.run({"image": batch})
            seconds.append(time.perf_counter() - began)
        measured = row("onnxruntime in process, one batch", clients, seconds, 0, time.perf_counter() - start)
        rows.append(measured | {"requests_per_s": round(measured["requests_per_s"] * clients, 1)})
    return rows


async def publish(address: str) -> None:
    """Register the classifier as the champion."""
    graph = classifier()
    images = np.random.default_rng(2).uniform(0, 1, (4, 3, 64, 64)).astype(np.float32)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    golden = save({"inputs.image": images, "outputs.logits": session.run(None, {"image": images})[0]})
    async with open_channel(address) as channel:
        registry = RegistryClient(channel)
        files = []
        for path, role, data in (("model.onnx", "graph", graph), ("golden.safetensors", "golden", golden)):
            blob = await registry.upload_bytes(data)
            files.append(FileEntry(path=path, sha256=blob.sha256, size_bytes=blob.size_bytes, role=role))
        manifest = manifest_of(
            MODEL,
            tuple(files),
            parameters=632_566,
            outputs=({"name": "logits", "data_type": "FP32", "shape": (-1, COLUMNS * ROWS)},),
            mappings={"grid": {"columns": COLUMNS, "rows": ROWS}},
        )
        await registry.create_model(MODEL)
        version = await registry.create_version(MODEL, manifest.canonical_json())
        await registry.set_alias(MODEL, "champion", version.version)


def measure_from_outside(path: str, address: str, duration_s: float) -> list[dict[str, Any]]:
    """Measure one path with clients in a process of their own."""
    rows = []
    for clients in CLIENTS:
        command = [sys.executable, "-m", "benchmarks.serving", "--client", path, address, str(clients), "--seconds", str(duration_s)]
        rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    return rows


def echo_server(duration_s: float) -> list[dict[str, Any]]:
    """Measure a bare gRPC server with the request that carries a tensor."""
    command = [sys.executable, "-m", "benchmarks.serving", "--echo"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout
        rows = measure_from_outside("grpc.aio echo", f"127.0.0.1:{int(server.stdout.readline())}", duration_s)
        server.communicate()
    return rows


def service(directory: Path, duration_s: float) -> list[dict[str, Any]]:
    """Measure the inference service over a registry, each a process of its own."""
    registry = RegistryProcess(directory)
    inference = InferenceProcess(directory, registry.address, log_level="WARNING")
    try:
        registry.start()
        asyncio.run(publish(registry.address))
        inference.start()
        return [line for kind in ("PNG", "tensor") for line in measure_from_outside(f"ClassifyCell, {kind}", inference.address, duration_s)]
    finally:
        for process in (inference, registry):
            if process.process is not None:
                process.stop()


def measure(duration_s: float) -> list[dict[str, Any]]:
    """Measure everything, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        return [*bare_runtime(directory, duration_s), *echo_server(duration_s), *service(directory, duration_s)]


def main() -> None:
    """Run the benchmark, or the part of it that a child process has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each line is measured")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--client", nargs=3, metavar=("PATH", "ADDRESS", "CLIENTS"), help=argparse.SUPPRESS)
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        asyncio.run(serve_echo(sys.stdin))
        return
    if options.client:
        path, address, clients = options.client
        print(json.dumps(asyncio.run(run_clients(path, address, int(clients), options.seconds))))
        return
    rows = measure(options.seconds)
    print(f"{'path':36} {'clients':>7} {'req/s':>9} {'p50 ms':>9} {'p99 ms':>9} {'errors':>6}")
    for line in rows:
        print(f"{line['path']:36} {line['clients']:7} {line['requests_per_s']:9} {line['p50_ms']:9} {line['p99_ms']:9} {line['errors']:6}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
