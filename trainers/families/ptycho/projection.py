"""The known part of the inverse, as layers: from a patch to the detector, there the measured moduli, and back.

Real and imaginary parts are separate tensors and Fourier transforms are products of matrices, so that every runtime can compute them.
Tensor names carry their shape: f frames, m modes of the probe, n and k rows and columns of a frame.
"""

import math

import torch
from torch import nn

_DAMPING = 0.05
"""Share of the probe's greatest intensity below which the object's update is damped: there the detector says little of it."""
_FLOOR = 1e-8

Pair = tuple[torch.Tensor, torch.Tensor]
"""Real and imaginary part."""


class ModulusProjection(nn.Module):
    """One step of the ptychographical iterative engine (Maiden and Rodenburg 2009) for a single frame, all frames at once.

    Args:
        size: N, pixels of a frame's side.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        index = torch.arange(size, dtype=torch.float64)
        # The rows are in the order of the detector, zero frequency in the centre.
        angle_kn = -2 * math.pi / size * torch.outer(index - size // 2, index)
        self.register_buffer("cos_kn", (angle_kn.cos() / math.sqrt(size)).float(), persistent=False)
        self.register_buffer("sin_kn", (angle_kn.sin() / math.sqrt(size)).float(), persistent=False)

    def forward(self, patch: Pair, probe: Pair, amplitudes_fnn: torch.Tensor) -> Pair:
        """Return patches (f, n, n) that fit the amplitudes better; what the probe (m, n, n) does not light stays as it is."""
        probe_mnn = probe[0][None], probe[1][None]
        wave = _times((patch[0][:, None], patch[1][:, None]), probe_mnn)
        far = self._transform(wave, 1.0)
        intensity_fnn = (far[0].square() + far[1].square()).sum(dim=1)
        gain_f1nn = (amplitudes_fnn / (intensity_fnn + _FLOOR).sqrt())[:, None]
        back = self._transform((far[0] * gain_f1nn, far[1] * gain_f1nn), -1.0)
        change = _times((back[0] - wave[0], back[1] - wave[1]), (probe_mnn[0], -probe_mnn[1]))
        power_nn = (probe[0].square() + probe[1].square()).sum(dim=0)
        step_nn = 1 / (power_nn + _DAMPING * power_nn.max())
        return patch[0] + change[0].sum(dim=1) * step_nn, patch[1] + change[1].sum(dim=1) * step_nn

    def _transform(self, wave: Pair, sign: float) -> Pair:
        """Return the Fourier transform (sign 1) of waves (f, m, n, n), or its inverse (sign -1), keeping sums of squares."""
        forth = (self.cos_kn, self.sin_kn) if sign > 0 else (self.cos_kn.T, -self.sin_kn.T)
        along_rows = _product(forth, wave)
        return _product(along_rows, (forth[0].T, forth[1].T))


def _times(one: Pair, other: Pair) -> Pair:
    """Return the complex product, element by element."""
    return one[0] * other[0] - one[1] * other[1], one[0] * other[1] + one[1] * other[0]


def _product(one: Pair, other: Pair) -> Pair:
    """Return the complex product of matrices."""
    return one[0] @ other[0] - one[1] @ other[1], one[0] @ other[1] + one[1] @ other[0]
