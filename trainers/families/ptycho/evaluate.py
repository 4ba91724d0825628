"""Metrics on frames that were not learnt from, in eval mode: how well patches explain their frames, and what they make together."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.tasks.ptychography.alignment import LEAST_SIDE, field_of_view, scanned
from tessera.tasks.ptychography.canvas import Canvas
from tessera.tasks.ptychography.metrics import Comparison, compare
from tessera.tasks.ptychography.reassembly import probe_weights
from tessera.tasks.ptychography.signatures import from_channels
from trainers.families.ptycho.data import Frames
from trainers.families.ptycho.networks import PatchNetwork
from trainers.families.ptycho.physics import intensities
from trainers.family import predict

_BATCH = 64


@dataclass(frozen=True)
class Reconstruction:
    """What a network makes of a scan.

    Attributes:
        fourier_error: Sum((|Psi| - amplitude)^2) / sum(amplitude^2), each frame explained by its own patch.
        object: complex64, (rows, columns), the patches put together.
        weight: float32, (rows, columns), 0 where no patch lies.
        truth: complex64, what `found` should be, or None if that is not known, or too few pixels are in both to compare.
        found: complex64, the part of the object that lies on the truth, or None.
    """

    fourier_error: float
    object: NDArray[np.complexfloating]
    weight: NDArray[np.floating]
    truth: NDArray[np.complexfloating] | None
    found: NDArray[np.complexfloating] | None

    @property
    def comparison(self) -> Comparison | None:
        """How far it is from the truth, None where that is not known."""
        return None if self.truth is None or self.found is None else compare(self.found, self.truth)

    @property
    def figures(self) -> dict[str, float]:
        """All numbers by name: `fourier_error`, and where there is a truth those of `metrics.Comparison`."""
        comparison = self.comparison
        return {"fourier_error": self.fourier_error} | (comparison.figures() if comparison else {})


def reconstruct(network: PatchNetwork, frames: Frames) -> Reconstruction:
    """Return what the network makes of a scan, put together as servers do it: the central halves, weighted by |probe|^2, in phase."""
    patches = from_channels(predict(network, frames.inputs(slice(None)), _BATCH)[:, 0])
    probe = from_channels(network.probe.detach().cpu().numpy())
    positions = frames.scan.positions
    canvas = Canvas(frames.scan.size, frames.scan.size // 2, probe_weights(probe), coherent=True)
    canvas.add(patches, positions)
    found, weight = canvas.object(), canvas.weight
    error = _fourier_error(torch.from_numpy(patches), torch.from_numpy(probe), frames.amplitudes)
    truth = frames.scan.truth
    least, greatest = field_of_view(positions)
    # What is held out of a small scan may be too narrow to compare.
    if truth is None or (greatest - least).min() < LEAST_SIDE + 1:
        return Reconstruction(error, found, weight, None, None)
    cut, true = scanned(found, canvas.corner, positions, truth)
    return Reconstruction(error, found, weight, true, cut)


def _fourier_error(patches: torch.Tensor, probe: torch.Tensor, amplitudes: torch.Tensor) -> float:
    residual = power = 0.0
    for chunk, measured in zip(patches.split(_BATCH), amplitudes.split(_BATCH), strict=True):
        residual += float((intensities(chunk, probe).sqrt() - measured).square().sum())
        power += float(measured.square().sum())
    return residual / power
