"""The networks of ptychography and what they learn from: forward model, losses, merging of neighbours, splits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.files import read_scan, write_scan
from tessera.tasks.ptychography.physics import model_amplitudes
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.signatures import from_channels
from trainers.families.ptycho import FAMILY
from trainers.families.ptycho.architectures import ARCHITECTURES
from trainers.families.ptycho.config import NetworkConfig, PtychoHyperparameters
from trainers.families.ptycho.data import TRANSMISSION, load, scaled_probe, split
from trainers.families.ptycho.evaluate import reconstruct
from trainers.families.ptycho.physics import data_loss, intensities, merge, to_channels, to_complex, translate
from trainers.families.ptycho.projection import ModulusProjection
from trainers.families.ptycho.reassembly import reassemble
from trainers.families.ptycho.training import PatchTraining

CONFIG = NetworkConfig(size=16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return FAMILY.example(tmp_path_factory.mktemp("ptycho")).inputs


@pytest.fixture(scope="module")
def scan(files: dict[str, Path]) -> Scan:
    return read_scan(files["scan"])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def test_the_cnn_has_as_many_parameters_as_the_original() -> None:
    assert ARCHITECTURES.get("cnn").parameters() == pytest.approx(2.33e6, rel=0.005)


@pytest.mark.parametrize("architecture", ["cnn", "resnet"])
@pytest.mark.parametrize("gridsize", [1, 2])
def test_a_network_answers_the_central_square_of_each_frame_of_a_group(architecture: str, gridsize: int) -> None:
    network = ARCHITECTURES.build(architecture, {"size": 32, "gridsize": gridsize, "width": 4})
    network.probe.data.normal_()
    patches = network(torch.rand(3, gridsize**2, 32, 32)).detach()
    assert patches.shape == (3, gridsize**2, 2, 32, 32)
    assert (patches[..., 8:24, 8:24] != 0).any(dim=-3).all()
    assert patches.abs().sum().item() == pytest.approx(patches[..., 8:24, 8:24].abs().sum().item())


def test_the_forward_model_is_that_of_the_task() -> None:
    patches, probe = noise(3, 16, 16), noise(2, 16, 16, seed=1)
    found = intensities(patches, probe).sqrt()
    for patch, amplitudes in zip(patches.numpy(), found, strict=True):
        obj = np.pad(patch, ((0, 1), (0, 1)))
        assert np.allclose(amplitudes, model_amplitudes(obj, probe.numpy(), np.zeros((1, 2)))[0], atol=1e-5)


@pytest.mark.parametrize("name", ["poisson", "mae"])
def test_a_loss_is_zero_where_the_model_is_right_and_greater_elsewhere(name: str) -> None:
    measured = torch.rand(2, 8, 8)
    right, wrong = (data_loss(measured.square() * factor, measured, name) for factor in (1.0, 1.2))
    assert abs(right) < 1e-3
    assert wrong > right + 1e-3


def test_translating_moves_right_by_x_and_down_by_y() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 2, 3] = 1
    moved = translate(image, torch.tensor([[2.0, 1.5]]))[0, 0]
    assert moved[3, 5] == pytest.approx(0.5, abs=1e-5)
    assert moved[4, 5] == pytest.approx(0.5, abs=1e-5)


def test_merging_neighbours_is_their_reassembly() -> None:
    # The first lies at the mean, so the canvas of the reassembly has its pixels.
    offsets = torch.tensor([[[0.0, 0.0], [2.5, -1.0], [-1.25, 2.0], [-1.25, -1.0]]])
    patches, weights = noise(1, 4, 16, 16), torch.rand(16, 16) + 0.1
    canvas, _ = reassemble(patches, offsets, 16, weights=weights, canvas=16)
    assert torch.allclose(merge(patches, offsets, weights, own=1.0), canvas, atol=1e-4)


def test_a_projection_of_what_explains_the_frame_changes_nothing_and_of_else_explains_it_better() -> None:
    project, probe = ModulusProjection(16), noise(2, 16, 16)
    patches = noise(3, 16, 16, seed=1)
    amplitudes = intensities(patches, probe).sqrt()

    def projected(patch: torch.Tensor) -> torch.Tensor:
        return torch.complex(*project((patch.real, patch.imag), (probe.real, probe.imag), amplitudes))

    assert torch.allclose(projected(patches), patches, atol=1e-3)
    start = torch.ones_like(patches)
    before, after = (data_loss(intensities(found, probe), amplitudes, "mae") for found in (start, projected(start)))
    assert after < 0.8 * before


def test_channels_are_real_and_imaginary_part() -> None:
    array = noise(2, 4, 4)
    assert torch.equal(to_complex(to_channels(array)), array)
    assert np.array_equal(from_channels(to_channels(array).numpy()), array.numpy())


def test_what_is_held_out_is_a_strip_at_the_right_end(scan: Scan) -> None:
    learnt, held_out = split(scan)
    assert len(learnt) + len(held_out) == len(scan)
    assert len(held_out) == round(0.2 * len(scan))
    assert learnt.positions[:, 0].max() <= held_out.positions[:, 0].min()


def test_another_scan_is_measured_on_as_a_whole(files: dict[str, Path], scan: Scan, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_scan(other, replace(scan, amplitudes=scan.amplitudes[:20], positions=scan.positions[:20]))
    learnt, measured, digest = load({**files, "validation": other})
    assert (len(learnt), len(measured)) == (len(scan), 20)
    assert digest != load(files)[2]


def test_the_probe_gives_scaled_frames_their_power(scan: Scan) -> None:
    power = float(scaled_probe(scan, CONFIG).square().sum())
    assert power * TRANSMISSION == pytest.approx(8**2, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "field"),
    [(NetworkConfig(size=32), "spec.model_config.size"), (NetworkConfig(size=16, modes=2), "spec.model_config.modes")],
)
def test_a_network_that_does_not_fit_the_scan_is_refused(files: dict[str, Path], config: NetworkConfig, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        PatchTraining(files, config, PtychoHyperparameters())
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("missing", "settings", "field"),
    [("probe", {}, "spec.inputs.scan"), ("truth", {"supervision": "supervised"}, "spec.hyperparameters.supervision")],
)
def test_a_scan_that_lacks_what_is_learnt_from_is_refused(
    scan: Scan, tmp_path: Path, missing: str, settings: dict[str, str], field: str
) -> None:
    write_scan(tmp_path / "scan", replace(scan, **{missing: None}))
    with pytest.raises(InvalidArgumentError) as caught:
        PatchTraining({"scan": tmp_path / "scan"}, CONFIG, PtychoHyperparameters.model_validate(settings))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("gridsize", "settings"),
    [(1, {}), (1, {"overlap": 1}), (1, {"loss": "mae"}), (1, {"supervision": "supervised"}), (2, {"learn_probe": True})],
)
def test_a_few_steps_lower_the_loss(files: dict[str, Path], gridsize: int, settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    training = PatchTraining(files, NetworkConfig(size=16, gridsize=gridsize), PtychoHyperparameters.model_validate(settings))
    network = ARCHITECTURES.build("resnet", {"size": 16, "width": 4, "gridsize": gridsize})
    training.begin(network)
    probe = network.probe.detach().clone()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=2e-3)
    batch = training.batch(list(range(8)))
    losses = []
    for _ in range(12):
        loss = training.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert torch.equal(network.probe, probe) != settings.get("learn_probe", False)


def test_metrics_and_object_are_of_frames_not_learnt_from(files: dict[str, Path], scan: Scan) -> None:
    training = PatchTraining({**files, "validation": files["scan"]}, CONFIG, PtychoHyperparameters())
    network = ARCHITECTURES.build("resnet", {"size": 16, "width": 4}).eval()
    training.begin(network)
    seen = reconstruct(network, training.validation)
    assert seen.figures.keys() >= {"fourier_error", "amplitude_psnr", "phase_psnr", "frc50"}
    assert seen.figures["fourier_error"] < 0.5
    dark = replace(training.validation, scan=replace(scan, truth=None))
    assert reconstruct(network, dark).figures.keys() == {"fourier_error"}


def test_an_export_says_what_servers_need(files: dict[str, Path]) -> None:
    training = PatchTraining(files, NetworkConfig(size=16, gridsize=2), PtychoHyperparameters())
    network = ARCHITECTURES.build("resnet", {"size": 16, "width": 4, "gridsize": 2})
    training.begin(network)
    export = training.export(network)
    assert export.runtimes == ("torchserve", "onnxruntime")
    assert export.mappings["kind"] == "network"
    assert export.mappings["crop"] == 8
    assert export.constants["probe"].shape == (1, 2, 16, 16)
    assert export.golden["amplitudes"].shape[1:] == (4, 16, 16)
