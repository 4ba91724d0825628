"""The forward model and the losses in Torch, differentiable in patches and probe.

Tensor names carry their shape: b patches or groups, g patches of a group, m modes of the probe, h rows, w columns. Tensors are complex
unless said otherwise.
"""

from typing import Literal

import torch

LossName = Literal["poisson", "mae"]

_FLOOR = 1e-6
"""Least intensity of the model, in units of scaled frames (mean 0.25 a pixel): logarithm and root need a slope at 0."""


def intensities(patches_bhw: torch.Tensor, probe_mhw: torch.Tensor) -> torch.Tensor:
    """Return sum over modes of |FFT2(P O)|^2 / N^2, zero frequency in the centre, float (b, h, w)."""
    waves_bmhw = torch.fft.fft2(patches_bhw[:, None] * probe_mhw, norm="ortho")
    intensities_bhw: torch.Tensor = waves_bmhw.abs().square().sum(dim=1)
    return torch.fft.fftshift(intensities_bhw, dim=(-2, -1))


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


def merge(patches_bghw: torch.Tensor, offsets_bg2: torch.Tensor, weights_hw: torch.Tensor, own: float) -> torch.Tensor:
    """Return the object where the first frame of each group looks, as the patches of the whole group have it, complex (b, h, w).

    Patches are translated bilinearly and averaged by weight, as in the reassembly, but onto the first patch's pixels.

    Args:
        patches_bghw: Patches of g neighbours.
        offsets_bg2: Their positions (x, y), pixels; only differences matter.
        weights_hw: Weight of each pixel of a patch, float.
        own: Factor for the weight of the first patch itself, > 0.
    """
    parts = torch.stack([patches_bghw.real, patches_bghw.imag, torch.ones_like(patches_bghw.real)], dim=2) * weights_hw
    moved = translate(parts.flatten(0, 1), (offsets_bg2 - offsets_bg2[:, :1]).flatten(0, 1)).unflatten(0, patches_bghw.shape[:2])
    real, imaginary, weight = (own * moved[:, 0] + moved[:, 1:].sum(dim=1)).unbind(1)
    return torch.complex(real, imaginary) / (weight + 1e-9)


def translate(images_bchw: torch.Tensor, offsets_b2: torch.Tensor) -> torch.Tensor:
    """Return images, float, moved right by x and down by y pixels, bilinearly; zeros come in."""
    height, width = images_bchw.shape[-2:]
    x_bw = torch.arange(width, device=images_bchw.device) - offsets_b2[:, :1]
    y_bh = torch.arange(height, device=images_bchw.device) - offsets_b2[:, 1:]
    grid = torch.stack(
        [(2 * x_bw / (width - 1) - 1)[:, None, :].expand(-1, height, -1), (2 * y_bh / (height - 1) - 1)[:, :, None].expand(-1, -1, width)],
        dim=-1,
    )
    return torch.nn.functional.grid_sample(images_bchw, grid, padding_mode="zeros", align_corners=True)


def to_complex(channels: torch.Tensor) -> torch.Tensor:
    """Return a float tensor (..., 2, h, w) of real and imaginary parts as complex (..., h, w)."""
    return torch.complex(channels.select(-3, 0), channels.select(-3, 1))


def to_channels(array: torch.Tensor) -> torch.Tensor:
    """Return a complex tensor (..., h, w) as float (..., 2, h, w)."""
    return torch.stack([array.real, array.imag], dim=-3)
