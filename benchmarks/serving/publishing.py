"""Puts a network into a registry, with its golden example and a file for each runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from benchmarks.serving.network import COLUMNS, PARAMETERS, ROWS, Array, logits, onnx_graph, tensors, torch_program
from model_store.artifact_files import Role
from model_store.manifest import FileEntry
from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tests.fixtures.inference import manifest_of

MODEL = "bench"


async def publish_network(address: str, directory: Path) -> None:
    """Register the benchmark's network as the champion, for the typed service and for the Open Inference Protocol.

    Args:
        address: The registry.
        directory: Where to write a file on its way.
    """
    program = directory / "model.pt2"
    torch_program(program)
    await publish(
        address,
        MODEL,
        {"model.onnx": onnx_graph(), "model.pt2": program.read_bytes()},
        {"inputs.image": np.concatenate(tensors()), "outputs.logits": logits()},
        parameters=PARAMETERS,
        outputs=({"name": "logits", "data_type": "FP32", "shape": (-1, COLUMNS * ROWS)},),
        mappings={"grid": {"columns": COLUMNS, "rows": ROWS}},
    )


async def publish(address: str, model: str, graphs: Mapping[str, bytes], golden: Mapping[str, Array], **manifest: Any) -> None:
    """Register a model with one version, its champion.

    Args:
        address: The registry.
        model: Its name.
        graphs: Files by name.
        golden: Inputs and outputs of the golden example, as `inputs.NAME` and `outputs.NAME`.
        manifest: Fields that differ from those of a tiny version of the task `puzzle_cells`.
    """
    contents: dict[tuple[str, Role], bytes] = {(path, "graph"): data for path, data in graphs.items()}
    contents["golden.safetensors", "golden"] = save(dict(golden))
    async with open_channel(address) as channel:
        registry = RegistryClient(channel)
        files = []
        for (path, role), data in contents.items():
            blob = await registry.upload_bytes(data)
            files.append(FileEntry(path=path, sha256=blob.sha256, size_bytes=blob.size_bytes, role=role))
        await registry.create_model(model)
        version = await registry.create_version(model, manifest_of(model, tuple(files), **manifest).canonical_json())
        await registry.set_alias(model, "champion", version.version)
