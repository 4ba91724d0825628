"""The family's `Training`: puts data, loss, metrics, pictures and export together for the shared loop."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tessera.errors import InvalidArgumentError
from trainers.families.ptycho.config import NetworkConfig, PtychoHyperparameters
from trainers.families.ptycho.data import Frames, load, scaled_probe
from trainers.families.ptycho.engines.config import EngineConfig
from trainers.families.ptycho.engines.subject import EngineSubject
from trainers.families.ptycho.evaluate import reconstruct
from trainers.families.ptycho.export import export
from trainers.families.ptycho.networks import PatchNetwork
from trainers.families.ptycho.physics import data_loss, intensities, merge, to_complex
from trainers.families.ptycho.pictures import draw
from trainers.family import Export, Subject, Tensors, Training
from trainers.progress import Report


class PatchTraining(Training):
    """Learning what patches of the object frames show.

    Args:
        files: Of the job, by name.
        config: Of the network.
        settings: Of the training.

    Raises:
        InvalidArgumentError: Scan, config and settings do not fit each other.
    """

    def __init__(self, files: Mapping[str, Path], config: NetworkConfig, settings: PtychoHyperparameters) -> None:
        scan, validation, self.dataset_digest = load(files)
        self._config, self._settings = config, settings
        self._probe = scaled_probe(scan, config)
        self._members = config.group if config.group > 1 or settings.supervision == "supervised" else settings.overlap
        self.frames = Frames.of(scan, self._members, settings.seed)
        self.validation = Frames.of(validation, config.group, settings.seed)
        if settings.supervision == "supervised" and scan.truth is None:
            message = "supervised learning needs a scan with its true object; real scans have none: learn from physics"
            raise InvalidArgumentError(message, field="spec.hyperparameters.supervision")

    def begin(self, network: PatchNetwork) -> None:
        """Give the network its probe."""
        with torch.no_grad():
            network.probe.copy_(self._probe)
        network.probe.requires_grad_(self._settings.learn_probe)

    def __len__(self) -> int:
        """Return the number of groups, one for every frame."""
        return len(self.frames.groups)

    def batch(self, indices: list[int]) -> Tensors:
        """Return scaled amplitudes (b, g, N, N) and offsets (b, g, 2); for supervised learning true patches (b, g, 2, N, N) too."""
        batch = self.frames.inputs(indices), self.frames.offsets[indices]
        return (*batch, self.frames.truths(indices)) if self._settings.supervision == "supervised" else batch

    def loss(self, network: PatchNetwork, batch: Tensors) -> torch.Tensor:
        """Return how badly the network's patches explain the frames, or how far they are from the true ones (mean absolute error)."""
        amplitudes, offsets, *truths = batch
        patches = self._patches(network, amplitudes)
        if truths:
            return (network.centre(patches) - network.centre(truths[0])).abs().mean()
        probe = to_complex(network.probe)
        merged = self._merged(network, to_complex(network.centre(patches)), offsets, probe)
        return data_loss(intensities(merged, probe), amplitudes[:, 0], self._settings.loss)

    def _patches(self, network: PatchNetwork, amplitudes: torch.Tensor) -> torch.Tensor:
        """Return the patches (b, g, 2, N, N) of neighbours, which a network of groups of one sees one by one."""
        if network.group == amplitudes.shape[1]:
            return network(amplitudes)
        return network(amplitudes.flatten(0, 1)[:, None]).unflatten(0, amplitudes.shape[:2])[:, :, 0]

    def _merged(self, network: PatchNetwork, centres: torch.Tensor, offsets: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        """Return what the first of each group looks at, (b, N, N), as its neighbours have it.

        What a patch says beyond what its own frame can know, noise above all, its neighbours contradict. A frame is explained by them, so a
        network that only copies noise gains nothing (Lehtinen et al., Noise2Noise, 2018).
        """
        weights = network.centre(probe.detach().abs().square().sum(dim=0))
        return network.padded(merge(centres, offsets, weights / weights.max(), self._settings.own_weight))

    def evaluate(self, network: PatchNetwork) -> dict[str, float]:
        """Return the metrics on the frames that are not learnt from."""
        return reconstruct(network, self.validation).figures

    def measure(self, network: PatchNetwork, report: Report) -> dict[str, float]:
        """Return the metrics on the frames that were not learnt from."""
        return self.evaluate(network)

    def draw(self, network: PatchNetwork, directory: Path, stem: str) -> list[Path]:
        """Draw what the network makes of the frames that it was not trained on."""
        return draw(network, self.validation, reconstruct(network, self.validation), directory, stem)

    def export(self, network: PatchNetwork) -> Export:
        """Return what the exported version carries."""
        return export(network, self.validation, self._config)


def prepare(inputs: Mapping[str, Path], config: NetworkConfig | EngineConfig, hyperparameters: PtychoHyperparameters) -> Subject:
    """Read the scans of a job; InvalidArgumentError if they are not fit for it."""
    if isinstance(config, EngineConfig):
        return EngineSubject(inputs, config, hyperparameters)
    return PatchTraining(inputs, config, hyperparameters)
