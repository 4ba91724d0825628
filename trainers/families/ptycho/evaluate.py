"""Metrics on frames that were not learnt from, in eval mode."""

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.tasks.ptychography.signatures import from_channels
from trainers.families.ptycho.architectures import PatchNetwork
from trainers.families.ptycho.data import Frames
from trainers.families.ptycho.physics import intensities, to_complex
from trainers.family import predict

_BATCH = 64


def patches_of(network: PatchNetwork, frames: Frames) -> NDArray[np.complex64]:
    """Return what the network makes of every frame as the first of its group, complex64 (M, N, N)."""
    return from_channels(predict(network, frames.inputs(slice(None)), _BATCH)[:, 0])


def evaluate(network: PatchNetwork, frames: Frames) -> dict[str, float]:
    """Return `fourier_error`, sum((|Psi| - amplitude)^2) / sum(amplitude^2) of each frame's own patch."""
    patches = torch.from_numpy(patches_of(network, frames))
    probe = to_complex(network.probe.detach().cpu())
    residual = power = 0.0
    for chunk, measured in zip(patches.split(_BATCH), frames.amplitudes.split(_BATCH), strict=True):
        residual += float((intensities(chunk, probe).sqrt() - measured).square().sum())
        power += float(measured.square().sum())
    return {"fourier_error": residual / power}
