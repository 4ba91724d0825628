"""The family's `Training`: puts data, loss, metrics, pictures and export together for the shared loop."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tessera.errors import InvalidArgumentError
from trainers.families.ptycho.architectures import PatchNetwork
from trainers.families.ptycho.config import NetworkConfig, PtychoHyperparameters
from trainers.families.ptycho.data import Frames, load, scaled_probe
from trainers.families.ptycho.engines.config import EngineConfig
from trainers.families.ptycho.engines.subject import EngineSubject
from trainers.families.ptycho.evaluate import evaluate
from trainers.families.ptycho.export import export
from trainers.families.ptycho.physics import data_loss, intensities, to_complex
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
        self.frames = Frames.of(scan, config.group, settings.neighbours, settings.seed)
        self.validation = Frames.of(validation, config.group, settings.neighbours, settings.seed)
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
        amplitudes, _, *truths = batch
        patches = network(amplitudes)
        if truths:
            return (network.centre(patches) - network.centre(truths[0])).abs().mean()
        expected = intensities(to_complex(patches.flatten(0, 1)), to_complex(network.probe))
        return data_loss(expected, amplitudes.flatten(0, 1), self._settings.loss)

    def evaluate(self, network: PatchNetwork) -> dict[str, float]:
        """Return the metrics on the frames that are not learnt from."""
        return evaluate(network, self.validation)

    def measure(self, network: PatchNetwork, report: Report) -> dict[str, float]:
        """Return the metrics on the frames that were not learnt from."""
        return evaluate(network, self.validation)

    def draw(self, network: PatchNetwork, directory: Path, stem: str) -> list[Path]:
        """Draw what the network makes of the frames that it was not trained on."""
        return []

    def export(self, network: PatchNetwork) -> Export:
        """Return what the exported version carries."""
        return export(network, self.validation, self._config)


def prepare(inputs: Mapping[str, Path], config: NetworkConfig | EngineConfig, hyperparameters: PtychoHyperparameters) -> Subject:
    """Read the scans of a job; InvalidArgumentError if they are not fit for it."""
    if isinstance(config, EngineConfig):
        return EngineSubject(inputs, config, hyperparameters)
    return PatchTraining(inputs, config, hyperparameters)
