"""The data of the family: a scan to learn from, another or a part of the same to measure on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.files import read_scan, write_scan
from tessera.tasks.ptychography.grouping import group, relative_offsets
from tessera.tasks.ptychography.normalisation import Normaliser
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.signatures import to_channels
from tessera.tasks.ptychography.simulation import patches_at, simulate
from trainers.families.ptycho.config import NetworkConfig
from trainers.family import Example

HELD_OUT = 0.2
"""Share of a scan that is held out where there is no other scan to measure on."""
TRANSMISSION = 0.5
"""Mean of |O|^2 that the scale of the probe supposes: amplitudes up to 1, which is all that a sigmoid gives, leave room above the mean."""


@dataclass(frozen=True)
class Frames:
    """Frames of a scan as a network sees them.

    Attributes:
        scan: As recorded.
        amplitudes: float32, (M, N, N), scaled.
        groups: int64, (M, g), indices of frames.
        offsets: float32, (M, g, 2), where the members of a group lie about its mean, (x, y), pixels.
    """

    scan: Scan
    amplitudes: torch.Tensor
    groups: torch.Tensor
    offsets: torch.Tensor

    @classmethod
    def of(cls, scan: Scan, size: int, seed: int) -> Self:
        """Return them in groups of `size`; InvalidArgumentError if there are fewer frames than that."""
        groups = group(scan.positions, size, seed=seed)
        return cls(
            scan,
            torch.from_numpy(Normaliser.fit(scan.amplitudes).apply(scan.amplitudes)),
            torch.from_numpy(groups),
            torch.from_numpy(relative_offsets(scan.positions, groups)).float(),
        )

    def inputs(self, indices: list[int] | slice) -> torch.Tensor:
        """Return what the network sees of some groups, (b, g, N, N)."""
        return self.amplitudes[self.groups[indices]]

    def truths(self, indices: list[int] | slice) -> torch.Tensor:
        """Return what it should answer for them, (b, g, 2, N, N); only where the scan has a truth."""
        assert self.scan.truth is not None
        members = self.groups[indices].numpy()
        patches = patches_at(self.scan.truth, self.scan.positions[members.ravel()], self.scan.size)
        return torch.from_numpy(to_channels(patches)).unflatten(0, members.shape)


def load(inputs: Mapping[str, Path]) -> tuple[Scan, Scan, str]:
    """Return the scan to learn from, that to measure on, and the digest of the files.

    Without a file `validation` the frames of a strip of the scan, a fifth of them at its right end, are held out: frames drawn at random
    would have overlapping neighbours among those learnt from.

    Raises:
        InvalidArgumentError: A file is no scan or has no probe, or the two do not fit each other.
    """
    scans = {name: read_scan(path, field=f"spec.inputs.{name}") for name, path in inputs.items()}
    digest = hashlib.sha256()
    for name in sorted(inputs):
        with inputs[name].open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for name, scan in scans.items():
        if scan.probe is None:
            message = "the scan has no probe; a network learns from frames through the probe, at least a guess of it"
            raise InvalidArgumentError(message, field=f"spec.inputs.{name}")
    scan = scans["scan"]
    if "validation" not in scans:
        return *split(scan), digest.hexdigest()
    validation = scans["validation"]
    if validation.size != scan.size:
        message = f"its frames are {validation.size} pixels wide, those of the scan {scan.size}; they must be equal"
        raise InvalidArgumentError(message, field="spec.inputs.validation")
    return scan, validation, digest.hexdigest()


def split(scan: Scan) -> tuple[Scan, Scan]:
    """Return a scan's frames without, and with nothing but, those at its right end."""
    order = np.argsort(scan.positions[:, 0], kind="stable")
    count = max(1, round(HELD_OUT * len(scan)))
    return _frames(scan, np.sort(order[:-count])), _frames(scan, np.sort(order[-count:]))


def _frames(scan: Scan, indices: NDArray[np.int64]) -> Scan:
    return replace(scan, amplitudes=scan.amplitudes[indices], positions=scan.positions[indices])


def scaled_probe(scan: Scan, config: NetworkConfig) -> torch.Tensor:
    """Return the scan's probe, (modes, 2, N, N), with the power that scaled frames of an object of mean |O|^2 `TRANSMISSION` need.

    By Parseval a frame's sum x^2 is that of |P O|^2, and scaled frames have (N / 2)^2.

    Raises:
        InvalidArgumentError: Frames or modes are others than those of the network's config.
    """
    assert scan.probe is not None
    if scan.size != config.size:
        message = f"the frames are {scan.size} x {scan.size} pixels, but size is {config.size}; they must be equal"
        raise InvalidArgumentError(message, field="spec.model_config.size")
    if len(scan.probe) != config.modes:
        message = f"the probe has {len(scan.probe)} modes, but modes is {config.modes}; they must be equal"
        raise InvalidArgumentError(message, field="spec.model_config.modes")
    power = float(np.square(np.abs(scan.probe), dtype=np.float64).sum())
    factor = scan.size / 2 / np.sqrt(TRANSMISSION * power)
    return torch.from_numpy(to_channels(scan.probe * factor))


def example(directory: Path) -> Example:
    """Write a scan of 40 frames of 16 x 16 pixels of an object of coloured noise."""
    random = np.random.default_rng(0)
    coarse = random.random((2, 12, 12)).repeat(4, axis=1).repeat(4, axis=2)
    truth = ((0.4 + 0.6 * coarse[0]) * np.exp(1j * (coarse[1] - 0.5))).astype(np.complex64)
    path = directory / "scan.safetensors"
    write_scan(path, simulate(truth, size=16, frames=40, photons=1e5))
    return Example(inputs={"scan": path}, model_config={"size": 16}, of_architecture={"resnet": {"projections": 1}})
