"""Turns a trained network into an artifact: the files of a version and its manifest, checked before they count.

A version carries its graph once for each runtime that can serve it: as ONNX for onnxruntime, as an exported program for TorchServe. An
artifact directory appears as a whole, by a rename, after every graph has been computed and has agreed with the network on the golden
example and on everything that the family gives to check.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from model_store.manifest import Manifest
from tessera.cpus import available_cpus
from tessera.errors import TesseraError
from tessera.tensors import Signature
from trainers.architectures import Network
from trainers.family import Arrays, Export
from trainers.quiet import quiet_libraries

WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"
CONSTANTS = "constants.safetensors"
CARD = "README.md"
MANIFEST = "manifest.json"
OPSET = 18
"""Version of the ONNX operators; old enough for every onnxruntime that is still maintained."""


def write_artifact(
    directory: Path,
    network: Network,
    export: Export,
    facts: dict[str, Any],
    *,
    card: Path,
    pictures: Sequence[Path],
    alive: Callable[[], None],
) -> Manifest:
    """Export a network and write the files of a version, with a manifest that lists them.

    Args:
        directory: Must not exist; is there as a whole afterwards, or not at all.
        network: Trained, on the CPU, in eval mode.
        export: From the family.
        facts: Fields of the manifest that the export does not know, by their JSON names.
        card: The model card.
        pictures: PNG files; copied below `pictures/`.
        alive: Called between the parts of the work, of which each may take a while.

    Returns:
        The manifest as written, without a version number.

    Raises:
        TesseraError: The exported graph and the network disagree.
        OSError: A file cannot be written.
    """
    building = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    (building / "pictures").mkdir(parents=True)
    roles = {WEIGHTS: "weights", GOLDEN: "golden", CARD: "card"} | {f"pictures/{picture.name}": "picture" for picture in pictures}
    for runtime in export.runtimes:
        form = _FORMS[runtime]
        form.write(network, export, building / form.file)
        alive()
        check(form.load(building / form.file, export.signature), network, export)
        alive()
        roles[form.file] = "graph"
    save_tensors({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, building / WEIGHTS)
    outputs = compute(network, export.golden, export.signature)
    golden = {f"inputs.{name}": array for name, array in export.golden.items()}
    golden |= {f"outputs.{name}": array for name, array in outputs.items()}
    _save(golden, building / GOLDEN)
    if export.constants:
        _save(export.constants, building / CONSTANTS)
        roles[CONSTANTS] = "constants"
    shutil.copyfile(card, building / CARD)
    for picture in pictures:
        shutil.copyfile(picture, building / "pictures" / picture.name)
    manifest = _manifest(building, network, export, facts, roles)
    (building / MANIFEST).write_bytes(manifest.canonical_json())
    building.replace(directory)
    return manifest


def export_graph(network: Network, export: Export, path: Path) -> None:
    """Write the network as one ONNX file; extents of -1 in the signature stay free."""
    example, shapes = _example(export)
    with quiet_libraries():
        program = torch.onnx.export(
            network,
            example,
            input_names=[spec.name for spec in export.signature.inputs],
            output_names=[spec.name for spec in export.signature.outputs],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None, "with dynamo, a program comes back"
        program.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)


def export_program(network: Network, export: Export, path: Path) -> None:
    """Write the network as a program of torch.export, with its weights and without examples; extents of -1 in the signature stay free."""
    example, shapes = _example(export)
    network.to(memory_format=torch.contiguous_format)  # training may lay channels last; the values stay, and an archive holds plain tensors
    with quiet_libraries():
        program = torch.export.export(network, example, dynamic_shapes=shapes)
        program.example_inputs = None
        torch.export.save(program, path)


def check(run: Callable[[Arrays], Arrays], network: Network, export: Export) -> None:
    """Compute the golden example and all of `export.check` with an exported graph; TesseraError unless the network gives the same."""
    for inputs in [export.golden, *export.check()]:
        expected = compute(network, inputs, export.signature)
        for name, found in run(inputs).items():
            if found.shape != expected[name].shape:
                shapes = f"{list(found.shape)} and {list(expected[name].shape)}"
                raise TesseraError(f"the exported graph and the network answer {name} of shapes {shapes}; nothing is published")
            if not np.allclose(found, expected[name], rtol=export.rtol, atol=export.atol):
                worst = float(np.abs(found - expected[name]).max())
                raise TesseraError(f"the exported graph and the network disagree on {name} by up to {worst:g}; nothing is published")


def compute(network: torch.nn.Module, inputs: Arrays, signature: Signature) -> Arrays:
    """Return the network's own outputs by name, for input arrays by name."""
    with torch.inference_mode():
        found = network(*(torch.from_numpy(inputs[spec.name]) for spec in signature.inputs))
    tensors = found if isinstance(found, tuple) else (found,)
    return {spec.name: tensor.numpy() for spec, tensor in zip(signature.outputs, tensors, strict=True)}


def _example(export: Export) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Return inputs to export with, and which of their extents are free."""
    specs = export.signature.inputs
    # Exporters take a batch of one for a constant, so two rows of the golden example stand for any number.
    example = tuple(torch.from_numpy(export.golden[spec.name][:2]) for spec in specs)
    batch = torch.export.Dim("batch")
    free = ({axis: torch.export.Dim.DYNAMIC if axis else batch for axis, extent in enumerate(spec.shape) if extent == -1} for spec in specs)
    return example, tuple(free)


def _computed_by_onnxruntime(path: Path, signature: Signature) -> Callable[[Arrays], Arrays]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in signature.outputs]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _computed_by_torch(path: Path, signature: Signature) -> Callable[[Arrays], Arrays]:
    with quiet_libraries():
        program = torch.export.load(path).module()
    return lambda inputs: compute(program, inputs, signature)


def _save(arrays: Arrays, path: Path) -> None:
    save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


@dataclass(frozen=True)
class _Form:
    """The form in which a runtime takes a graph: its file, how it is written, and how it is computed here."""

    file: str
    write: Callable[[Network, Export, Path], None]
    load: Callable[[Path, Signature], Callable[[Arrays], Arrays]]


_FORMS = {
    "onnxruntime": _Form("model.onnx", export_graph, _computed_by_onnxruntime),
    "torchserve": _Form("model.pt2", export_program, _computed_by_torch),
}


def _manifest(directory: Path, network: Network, export: Export, facts: dict[str, Any], roles: dict[str, str]) -> Manifest:
    """Return the manifest of the files in a directory, by their roles."""
    return Manifest.model_validate(
        {
            **facts,
            "parameters": network.get_num_total_params(),
            "runtime": export.runtimes[0],
            "inputs": [vars(spec) for spec in export.signature.inputs],
            "outputs": [vars(spec) for spec in export.signature.outputs],
            "files": [_entry(directory, path, role) for path, role in roles.items()],
            "labels": export.labels,
            "mappings": export.mappings,
            "golden": {"file": GOLDEN, "rtol": export.rtol, "atol": export.atol},
            "frameworks": {name: version(name) for name in ("torch", "lightning", "onnx", "onnxruntime")} | {"opset": str(OPSET)},
        }
    )


def _entry(directory: Path, path: str, role: str) -> dict[str, Any]:
    """Return the manifest's entry of a file."""
    data = directory / path
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path, "sha256": digest, "size_bytes": data.stat().st_size, "role": role}
