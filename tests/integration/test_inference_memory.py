"""A server that loads and unloads versions all day takes up no more memory, threads or files than one that has done so a few times."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tessera.client.inference import InferenceClient
from tessera.client.registry import RegistryClient
from tessera.errors import ResourceExhaustedError
from tessera.memory import resident_memory
from tessera.rpc.channel import open_channel
from tests.fixtures.inference import (
    CELLS,
    InferenceProcess,
    TinyModel,
    check_answer,
    piece,
    poll,
    publish_version,
    serve_inference,
    tensor,
)
from tests.fixtures.registry import RegistryProcess, RegistryServer
from tests.fixtures.waiting import WAIT_S

MODEL = "puzzle"
CYCLES = 300
SETTLED = 60
"""Cycles until the process has seen every version in every batch size, and its allocators have grown as far as they do."""
WINDOW = 10
"""Measurements at the beginning and at the end that are compared."""
GROWTH_BYTES = 16 * 2**20
"""The cycles between them load half a gigabyte of weights alone."""


@dataclass(frozen=True)
class HeavyModel(TinyModel):
    """A network that gives the same answers after much more work: megabytes of weights, and a convolution that needs memory in each batch.

    Args:
        width: Of the hidden layer; it has width x width weights.
    """

    width: int = 1024

    def graph(self) -> bytes:
        """Return it as ONNX."""
        random = np.random.default_rng(self.marker)
        initializers = {
            "weights": self.weights,
            "bias": self.bias,
            "filters": random.standard_normal((8, 3, 3, 3)).astype(np.float32),
            "first": random.standard_normal((8, self.width)).astype(np.float32),
            "second": random.standard_normal((self.width, self.width)).astype(np.float32),
            "nothing": np.zeros((self.width, CELLS), np.float32),
        }
        graph = helper.make_graph(
            [
                helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
                helper.make_node("Flatten", ["pooled"], ["means"]),
                helper.make_node("Gemm", ["means", "weights", "bias"], ["scores"]),
                helper.make_node("Conv", ["image", "filters"], ["convolved"], pads=[1, 1, 1, 1]),
                helper.make_node("GlobalAveragePool", ["convolved"], ["small"]),
                helper.make_node("Flatten", ["small"], ["flat"]),
                helper.make_node("MatMul", ["flat", "first"], ["wide"]),
                helper.make_node("MatMul", ["wide", "second"], ["wider"]),
                helper.make_node("MatMul", ["wider", "nothing"], ["zeros"]),
                helper.make_node("Add", ["scores", "zeros"], ["logits"]),
            ],
            "heavy",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 64, 64])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CELLS])],
            [numpy_helper.from_array(array, name) for name, array in initializers.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


VERSIONS = tuple(HeavyModel(marker=number, width=width) for number, width in enumerate((512, 768, 1024), start=1))


@dataclass(frozen=True)
class Footprint:
    """What a process takes up."""

    resident_bytes: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        process = Path(f"/proc/{pid}")
        return cls(resident_memory(process), len(list((process / "task").iterdir())), len(list((process / "fd").iterdir())))


@pytest.fixture
def server(registry_process: RegistryProcess, tmp_path: Path) -> Iterator[InferenceProcess]:
    """A server that keeps one version without an alias."""
    process = InferenceProcess(
        tmp_path, registry_process.address, max_on_demand="1", max_batch="16", log_level="WARNING", metrics_port="none"
    )
    process.start()
    yield process
    if process.process is not None:
        process.kill()


@pytest.mark.slow
async def test_after_300_loads_the_memory_is_what_it_was_after_the_first_few(
    registry_process: RegistryProcess, server: InferenceProcess
) -> None:
    assert server.process is not None
    async with open_channel(registry_process.address) as to_registry, open_channel(server.address) as channel:
        client = InferenceClient(channel, WAIT_S)
        for version in VERSIONS:
            await publish_version(RegistryClient(to_registry), MODEL, version)
        footprints = []
        for cycle in range(CYCLES):
            number = cycle % len(VERSIONS) + 1
            answer = await client.classify_cell(tensor(piece(cycle)), MODEL, version=number, include_probabilities=True)
            check_answer(answer, VERSIONS[number - 1], piece(cycle))
            if cycle >= SETTLED and number == len(VERSIONS):
                await poll(lambda: one_version_left(client))
                footprints.append(Footprint.of(server.process.pid))
    first, last = footprints[:WINDOW], footprints[-WINDOW:]
    # How much of the allocators' free memory is in use at a moment differs by some megabytes; what leaks is in the least of them as well.
    grown = min(one.resident_bytes for one in last) - min(one.resident_bytes for one in first)
    assert grown < GROWTH_BYTES, [one.resident_bytes // 2**20 for one in footprints]
    assert max(one.threads for one in last) <= max(one.threads for one in first) + 2
    assert max(one.files for one in last) <= max(one.files for one in first) + 2


async def one_version_left(client: InferenceClient) -> bool:
    """Tell whether all versions but the one that answered last are unloaded."""
    return len((await client.list_served(MODEL)).versions) == 1


async def test_a_version_that_does_not_fit_is_refused_and_says_why_while_the_old_one_answers(
    registry_server: RegistryServer, tmp_path: Path
) -> None:
    too_large = HeavyModel(marker=2, width=2048)
    async with serve_inference(registry_server.address, tmp_path / "cache", memory_bytes=64 * 2**20) as server:
        await publish_version(server.registry, MODEL, TinyModel(marker=1), alias="champion")
        await server.wait_for_alias(MODEL, 1)
        await publish_version(server.registry, MODEL, too_large, alias="champion")
        await server.wait_for(MODEL, 2, "FAILED")
        old, new = (await server.client.list_served(MODEL)).versions
        assert "version 2 needs" in new.error
        assert "of the 64.0 MiB for all versions on this server (TESSERA_INFERENCE_MEMORY_BYTES)" in new.error
        assert (list(old.aliases), new.memory_bytes) == (["champion"], 0)
        assert 0 < old.memory_bytes < 64 * 2**20
        answer = await server.client.classify_cell(tensor(piece()), MODEL, include_probabilities=True)
        check_answer(answer, TinyModel(marker=1), piece())
        with pytest.raises(ResourceExhaustedError, match="version 2 cannot be served"):
            await server.client.classify_cell(tensor(piece()), MODEL, version=2)
