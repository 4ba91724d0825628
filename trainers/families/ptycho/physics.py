"""The forward model and the losses in Torch, differentiable in patches and probe.

Tensor names carry their shape: b patches, m modes of the probe, h rows, w columns; complex unless said otherwise.
"""

from typing import Literal

import torch

LossName = Literal["poisson", "mae"]

_FLOOR = 1e-6
"""Least intensity of the model, in units of scaled frames (mean 0.25 a pixel): logarithm and root need a slope at 0."""


def intensities(patches_bhw: torch.Tensor, probe_mhw: torch.Tensor) -> torch.Tensor:
    """Return sum over modes of |FFT2(P O)|^2 / N^2, zero frequency in the centre, float (b, h, w)."""
    waves_bmhw = torch.fft.fft2(patches_bhw[:, None] * probe_mhw, norm="ortho")
    return torch.fft.fftshift(waves_bmhw.abs().square().sum(dim=1), dim=(-2, -1))


def data_loss(expected_bhw: torch.Tensor, measured_bhw: torch.Tensor, name: LossName) -> torch.Tensor:
    """Return how badly a model explains what was measured, a scalar.

    Args:
        expected_bhw: Intensities of the model, float.
        measured_bhw: Amplitudes, float.
        name: `poisson`: the mean of rate - n log rate, less what a perfect model has, so that 0 is perfect; `mae`: the mean absolute
            difference of the amplitudes.
    """
    rate_bhw = expected_bhw + _FLOOR
    if name == "mae":
        return (rate_bhw.sqrt() - measured_bhw).abs().mean()
    counts_bhw = measured_bhw.square()
    best_bhw = counts_bhw + _FLOOR
    return (rate_bhw - best_bhw - counts_bhw * (rate_bhw / best_bhw).log()).mean()


def to_complex(channels: torch.Tensor) -> torch.Tensor:
    """Return a float tensor (..., 2, h, w) of real and imaginary parts as complex (..., h, w)."""
    return torch.complex(channels[..., 0, :, :], channels[..., 1, :, :])


def to_channels(array: torch.Tensor) -> torch.Tensor:
    """Return a complex tensor (..., h, w) as float (..., 2, h, w)."""
    return torch.stack([array.real, array.imag], dim=-3)
