"""What every family promises: whoever adds a folder below trainers/families gets these tests for nothing."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import json_format
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors

from model_store.artifact_files import check_file_magic
from model_store.manifest import Manifest
from services.inference.runtimes import carried_runtimes, graph_of
from services.inference.runtimes.onnxruntime import OnnxRuntime
from services.inference.runtimes.runtime import RuntimeOptions
from tessera.api.trainer.v1 import trainer_pb2
from tessera.errors import InvalidArgumentError
from tests.fixtures.family import SilentReport
from trainers.architectures import Architecture
from trainers.artifact import compute
from trainers.families import find_families, find_family
from trainers.family import Arrays, Family
from trainers.job import Job, run

FAMILIES = list(find_families().values())
ARCHITECTURES = [(family, architecture) for family in FAMILIES for architecture in family.architectures]
by_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
by_architecture = pytest.mark.parametrize(("family", "architecture"), ARCHITECTURES, ids=lambda item: item.name)


@pytest.fixture(scope="module")
def announced() -> dict[str, trainer_pb2.Family]:
    """What `python -m trainers.describe` prints, by family."""
    printed = subprocess.run([sys.executable, "-m", "trainers.describe"], capture_output=True, check=True).stdout
    families = [json_format.ParseDict(entry, trainer_pb2.Family()) for entry in json.loads(printed)]
    return {family.name: family for family in families}


def example_job(family: Family, architecture: str, directory: Path) -> Job:
    example = family.example(directory)
    return Job(
        family=family.name,
        architecture=architecture,
        model="contract",
        model_config=example.model_config | example.of_architecture.get(architecture, {}),
        hyperparameters={"epochs": 1, "evaluate_every": 1},
        inputs=example.inputs,
    )


@by_family
def test_a_family_lies_in_the_folder_of_its_name_with_a_model_card(family: Family) -> None:
    assert family.card.parent.name == family.name
    assert family.card.name == "README.md"
    assert len(family.card.read_text()) > 500


@by_architecture
def test_an_architecture_has_as_many_parameters_as_announced(
    family: Family, architecture: Architecture, announced: dict[str, trainer_pb2.Family]
) -> None:
    network = family.architectures.build(architecture.name, {})
    by_name = {entry.name: entry for entry in announced[family.name].architectures}
    assert by_name[architecture.name].parameters == network.get_num_total_params()
    assert network.get_num_trainable_params() <= network.get_num_total_params()
    assert architecture.trained == (network.get_num_trainable_params() > 0)


@by_family
def test_schemas_and_inputs_are_announced(family: Family, announced: dict[str, trainer_pb2.Family]) -> None:
    message = announced[family.name]
    assert message.task == family.task
    assert set(family.hyperparameters.model_fields) == set(message.hyperparameters_schema["properties"])
    assert [requirement.name for requirement in message.inputs] == [requirement.name for requirement in family.inputs]


@by_architecture
def test_what_is_trained_is_what_is_served(
    family: Family, architecture: Architecture, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    report = SilentReport()
    run(example_job(family, architecture.name, tmp_path), tmp_path, report)
    assert list(report.epochs) == ([1] if architecture.trained else [])
    assert report.phases[0] == "prepare"
    assert report.phases[-1] == "export"
    artifact = tmp_path / "artifact"

    manifest = Manifest.parse((artifact / "manifest.json").read_bytes())
    assert (manifest.family, manifest.architecture, manifest.task.name) == (family.name, architecture.name, family.task)
    on_disk = {str(path.relative_to(artifact)) for path in artifact.rglob("*") if path.is_file()}
    assert {entry.path for entry in manifest.files} == on_disk - {"manifest.json"}
    for entry in manifest.files:
        assert hashlib.sha256((artifact / entry.path).read_bytes()).hexdigest() == entry.sha256
        check_file_magic(artifact / entry.path, entry.role)

    # The network is built again from nothing but the manifest and the weights.
    network = family.architectures.build(manifest.architecture, manifest.architecture_config).eval()
    network.load_state_dict(load_tensors(artifact / "weights.safetensors"))
    assert network.get_num_total_params() == manifest.parameters
    arrays = load_arrays(artifact / manifest.golden.file)
    inputs = {spec.name: arrays[f"inputs.{spec.name}"] for spec in manifest.inputs}
    runtimes: dict[str, Callable[[Arrays], Arrays]] = {}
    for name in carried_runtimes(manifest):
        graph = artifact / graph_of(manifest, name).path
        if name == "onnxruntime":
            served = OnnxRuntime(1).load(manifest, graph, RuntimeOptions())
            request.addfinalizer(served.close)
            runtimes[name] = served.run
        else:
            program = torch.export.load(graph).module()  # as TorchServe's workers do
            runtimes[name] = partial(compute, program, signature=manifest)
    assert "torchserve" in runtimes, "every family can be served by TorchServe"
    for rows in sorted({1, 2, len(next(iter(inputs.values())))} if manifest.inputs[0].shape[0] == -1 else {1}):
        batch = {name: array[:rows] for name, array in inputs.items()}
        expected = compute(network, batch, manifest)
        for run_batch in runtimes.values():
            found = run_batch(batch)
            for name, array in expected.items():
                assert np.allclose(found[name], array, rtol=0, atol=manifest.golden.atol)
                assert np.allclose(found[name], arrays[f"outputs.{name}"][:rows], rtol=0, atol=manifest.golden.atol)


@by_family
def test_an_unknown_architecture_is_refused_and_the_known_are_listed(family: Family, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        run(example_job(family, "perpetuum_mobile", tmp_path), tmp_path, SilentReport())
    assert caught.value.field == "spec.architecture"
    assert all(architecture.name in caught.value.message for architecture in family.architectures)


@by_family
def test_an_unknown_hyperparameter_is_refused_and_the_known_are_listed(family: Family) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        family.parse_hyperparameters({"lr": 0.1})
    assert caught.value.field == "spec.hyperparameters.lr"
    assert all(name in caught.value.message for name in family.hyperparameters.model_fields)


@by_family
def test_a_wrong_hyperparameter_is_refused(family: Family) -> None:
    with pytest.raises(InvalidArgumentError, match="greater than or equal to 1, not 0") as caught:
        family.parse_hyperparameters({"epochs": 0})
    assert caught.value.field == "spec.hyperparameters.epochs"


@by_family
def test_whole_numbers_may_come_as_floats(family: Family) -> None:
    assert family.parse_hyperparameters({"epochs": 3.0}).epochs == 3


@by_architecture
def test_an_unknown_model_config_field_is_refused_and_the_known_are_listed(family: Family, architecture: Architecture) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        family.architectures.build(architecture.name, {"wings": 2})
    assert caught.value.field == "spec.model_config.wings"
    assert all(name in caught.value.message for name in architecture.config.model_fields)


@by_family
def test_missing_and_unknown_inputs_are_refused(family: Family, tmp_path: Path) -> None:
    inputs = family.example(tmp_path).inputs
    with pytest.raises(InvalidArgumentError, match="unknown input 'noise'; known: "):
        family.check_inputs({**inputs, "noise": tmp_path})
    for requirement in family.inputs:
        if requirement.required:
            with pytest.raises(InvalidArgumentError, match=f"the input '{requirement.name}' is missing"):
                family.check_inputs({name: path for name, path in inputs.items() if name != requirement.name})


def test_an_unknown_family_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(InvalidArgumentError, match=r"unknown family 'toasters'; known: .*puzzle_cells"):
        find_family("toasters")
