"""A family is a folder: one that nobody knows of is found, run, registered and served, however little it is like an image classifier."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import trainers.families
from model_store.manifest import Manifest
from tessera.client.registry import RegistryClient
from tests.fixtures.family import SilentReport
from tests.fixtures.inference import InferenceServer
from trainers.describe import describe
from trainers.families import find_families, find_family
from trainers.job import Job, run
from trainers.loop import train

FOLDERS = Path(__file__).parents[1] / "fixtures" / "families"
STEPS = 5


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the folder lie where families lie."""
    monkeypatch.setattr(trainers.families, "__path__", [*trainers.families.__path__, str(FOLDERS)])
    yield
    for name in [name for name in sys.modules if name.startswith("trainers.families.diffusion")]:
        del sys.modules[name]


async def publish(registry: RegistryClient, artifact: Path) -> Manifest:
    """Register an artifact as the champion of its model."""
    manifest = Manifest.parse((artifact / "manifest.json").read_bytes())
    for entry in manifest.files:
        assert await registry.upload_file(artifact / entry.path) == entry.blob
    await registry.ensure_model(manifest.model)
    version = await registry.create_version(manifest.model, manifest.canonical_json())
    await registry.set_alias(manifest.model, "champion", version.version)
    return manifest


def test_a_folder_is_found_and_described() -> None:
    assert "puzzle_cells" in find_families()
    described = describe(find_family("diffusion"))
    assert [(one.name, one.parameters) for one in described.architectures] == [("explicit", 0), ("learnt", 54)]


async def test_an_algorithm_without_weights_and_epochs_is_registered_and_served_on_fields_of_any_extent(
    inference_server: InferenceServer, tmp_path: Path
) -> None:
    report = SilentReport()
    inputs = find_family("diffusion").example(tmp_path).inputs
    metrics = run(Job(family="diffusion", architecture="explicit", model="heat", inputs=inputs), tmp_path, report)
    assert (report.epochs, report.steps) == ({}, list(range(1, STEPS + 1))), "it measures, and tells how far it is"
    assert "train" not in report.phases
    manifest = await publish(inference_server.registry, tmp_path / "artifact")
    assert (manifest.parameters, manifest.metrics) == (0, metrics)
    await inference_server.wait_for_alias("heat", 1)

    half = np.full((1, 1), 0.5, np.float32)
    for rows, columns in ((6, 5), (5, 6), (1, 1), (200, 300)):
        field = np.random.default_rng(rows).standard_normal((1, rows, columns)).astype(np.float32)
        answer = await inference_server.client.infer("heat", {"field": field, "rate": half})
        wide = np.pad(field, ((0, 0), (1, 1), (1, 1)), mode="edge")
        mean = (wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]) / 4
        np.testing.assert_allclose(answer.outputs["new_field"], (field + mean) / 2, atol=1e-5)
        assert answer.outputs["change"].shape == (1, rows)


def test_a_parameter_of_five_axes_is_trained(tmp_path: Path) -> None:
    family = find_family("diffusion")
    architecture = family.architectures.get("learnt")
    settings = family.parse_hyperparameters({"epochs": 1, "batch_size": 2, "accelerator": "cpu", "learning_rate": 0.1})
    torch.manual_seed(0)
    network = architecture.build(architecture.parse_config({}))
    training = family.prepare(family.example(tmp_path).inputs, architecture.parse_config({}), settings)
    train(network, training, settings, directory=tmp_path, report=SilentReport())
    assert 0 < float(network.kernel.detach().mean()) < 1
