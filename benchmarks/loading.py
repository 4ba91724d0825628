"""What loading versions costs: their neighbours' latency, and memory that stays.

    python -m benchmarks.loading [--seconds 4] [--cycles 300] [--json FILE] [--plot FILE]

One server answers 100 requests a second (Poisson) of one model, in rounds that take turns: nothing else happens, or versions of another
model (weights of 12 MB) are loaded and unloaded all the time. Health checks beside them show how long the server's event loop is held up.
Then versions are loaded and unloaded until there were as many cycles as asked for; the memory is looked at after each.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
from grpc_health.v1 import health_pb2
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from benchmarks.serving.loops import Call, open_loop
from model_store.manifest import FileEntry
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest
from tessera.client.inference import InferenceClient
from tessera.client.registry import RegistryClient
from tessera.memory import resident_memory
from tessera.rpc.channel import open_channel
from tests.fixtures.inference import CELLS, InferenceProcess, manifest_of, piece, tensor
from tests.fixtures.registry import RegistryProcess

CLASSIFY = "/tessera.api.inference.v1.PuzzleService/ClassifyCell"
CHECK = "/grpc.health.v1.Health/Check"
RATE = 100.0
ROUNDS = 3
NEIGHBOUR, LOADED = "neighbour", "loaded"
NARROW, WIDE = (3, 32, 64, 128), (3, 64, 128, 512, 512)
VERSIONS = 3
SETTLED = 20
"""Cycles that are not counted as growth: the first ones fill caches."""


def network(seed: int, widths: Sequence[int]) -> tuple[bytes, bytes]:
    """Return a classifier of 3x3 convolutions with random weights, and its golden example."""
    random = np.random.default_rng(seed)
    nodes, weights, last = [], [], "image"
    for layer, (narrow, wide) in enumerate(pairwise(widths)):
        array = (random.standard_normal((wide, narrow, 3, 3)) / 30).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        last = f"c{layer}"
    weights.append(numpy_helper.from_array(random.standard_normal((widths[-1], CELLS)).astype(np.float32), "w"))
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "w"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CELLS])],
        weights,
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    images = random.uniform(0, 1, (2, 3, 64, 64)).astype(np.float32)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, save({"inputs.image": images, "outputs.logits": session.run(None, {"image": images})[0]})


async def publish(registry: RegistryClient, model: str, seed: int, widths: Sequence[int]) -> int:
    """Register one more version of a model, and return its size in bytes."""
    graph, golden = network(seed, widths)
    files = []
    for path, role, data in (("model.onnx", "graph", graph), ("golden.safetensors", "golden", golden)):
        blob = await registry.upload_bytes(data)
        files.append(FileEntry(path=path, sha256=blob.sha256, size_bytes=blob.size_bytes, role=role))
    await registry.ensure_model(model)
    await registry.create_version(model, manifest_of(model, tuple(files)).canonical_json())
    return len(graph)


@dataclass
class Latencies:
    """Of all rounds of one kind, in seconds."""

    neighbour: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    errors: int = 0

    def row(self, name: str) -> dict[str, Any]:
        """Return the figures, in milliseconds."""
        p50, p99 = np.percentile(np.array(self.neighbour) * 1e3, (50, 99))
        held, worst = np.percentile(np.array(self.health) * 1e3, (99, 100))
        return {
            "name": name,
            "requests": len(self.neighbour),
            "errors": self.errors,
            "p50_ms": round(p50, 2),
            "p99_ms": round(p99, 2),
            "max_ms": round(max(self.neighbour) * 1e3, 2),
            "health_p99_ms": round(held, 2),
            "health_max_ms": round(worst, 2),
        }


class Bench:
    """A server, and what is asked of it.

    Args:
        channel: To the server.
        pid: Its process.
    """

    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        self._client = InferenceClient(channel)
        request = ClassifyCellRequest(model=ModelSelector(model=NEIGHBOUR), tensor=tensor(piece())).SerializeToString()
        health = health_pb2.HealthCheckRequest().SerializeToString()
        self._ask = _call(channel, CLASSIFY, request)
        self._check = _call(channel, CHECK, health)
        self._pid = pid
        self._numbers = cycle(range(1, VERSIONS + 1))
        self.resident: list[int] = []
        """Bytes in memory after each load."""

    async def load_next(self) -> None:
        """Ask for a version that is not loaded, so that it is and the one before is unloaded."""
        await self._client.classify_cell(tensor(piece()), LOADED, version=next(self._numbers))
        self.resident.append(resident_memory(Path(f"/proc/{self._pid}")))

    async def measure(self, seconds: float, into: Latencies) -> None:
        """Ask the neighbour for so long."""
        asked, checked = await asyncio.gather(open_loop([self._ask], RATE, seconds), open_loop([self._check], RATE, seconds))
        into.neighbour += asked.seconds
        into.health += checked.seconds
        into.errors += asked.errors.total() + checked.errors.total()

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Load one version after the other meanwhile."""

        async def load() -> None:
            while True:
                await self.load_next()

        task = asyncio.create_task(load())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _call(channel: grpc.aio.Channel, method: str, request: bytes) -> Call:
    ask: Callable[..., Awaitable[bytes]] = channel.unary_unary(method)

    async def call(_number: int) -> bytes:
        return await ask(request, timeout=30)

    return call


async def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run everything and return the figures."""
    registry = RegistryProcess(directory)
    server = InferenceProcess(directory, registry.address, max_on_demand="1", max_batch="8", log_level="WARNING", metrics_port="none")
    try:
        registry.start()
        async with open_channel(registry.address) as channel:
            client = RegistryClient(channel)
            await publish(client, NEIGHBOUR, 0, NARROW)
            await client.set_alias(NEIGHBOUR, "champion", 1)
            for seed in range(1, VERSIONS + 1):
                size = await publish(client, LOADED, seed, WIDE)
        server.start()
        assert server.process
        async with open_channel(server.address) as channel:
            bench = Bench(channel, server.process.pid)
            quiet, busy = Latencies(), Latencies()
            await bench.measure(1.0, Latencies())
            for _ in range(ROUNDS):
                await bench.measure(options.seconds, quiet)
                before = len(bench.resident)
                async with bench.loading():
                    await bench.measure(options.seconds, busy)
                print(f"{len(bench.resident) - before} loads in {options.seconds:g} s", file=sys.stderr)
            while len(bench.resident) < options.cycles:
                await bench.load_next()
            return figures(quiet, busy, bench.resident, size)
    finally:
        for process in (server, registry):
            if process.process:
                process.stop()


def figures(quiet: Latencies, busy: Latencies, resident: Sequence[int], size: int) -> dict[str, Any]:
    """Return what is printed and written."""
    rows = [quiet.row("neighbour, nothing loads"), busy.row("neighbour, versions load all the time")]
    mebibytes = [round(one / 2**20, 1) for one in resident]
    return {
        "rows": rows,
        "p99_ratio": round(rows[1]["p99_ms"] / rows[0]["p99_ms"], 2),
        "graph_mib": round(size / 2**20, 1),
        "cycles": len(resident),
        "resident_mib_first": min(mebibytes[SETTLED : 2 * SETTLED]),
        "resident_mib_last": min(mebibytes[-SETTLED:]),
        "resident_mib": mebibytes,
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG with the memory after each load."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    axes.plot(range(1, result["cycles"] + 1), result["resident_mib"], linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"versions of {result['graph_mib']:g} MiB loaded and unloaded")
    axes.set_ylabel("resident, MiB")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round; there are three of each kind")
    parser.add_argument("--cycles", type=int, default=300, help="versions to load and unload in all, at least 60")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the memory there (PNG)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(measure(Path(directory), options))
    print(f"{'':40}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{'health p99':>12}{'health max':>12}{'errors':>8}")
    for row in result["rows"]:
        numbers = f"{row['p50_ms']:10.2f}{row['p99_ms']:10.2f}{row['max_ms']:10.2f}{row['health_p99_ms']:12.2f}{row['health_max_ms']:12.2f}"
        print(f"{row['name']:40}{numbers}{row['errors']:8}")
    print(f"p99 while versions load over p99 without: {result['p99_ratio']}")
    print(
        f"resident memory after {2 * SETTLED} loads of {result['graph_mib']} MiB: {result['resident_mib_first']} MiB, "
        f"after {result['cycles']}: {result['resident_mib_last']} MiB"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.plot:
        draw(result, options.plot)


if __name__ == "__main__":
    main()
