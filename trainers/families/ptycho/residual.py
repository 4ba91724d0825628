"""The hybrid residual network: physics where it is known, residual convolutions where it is not."""

import torch
from torch import nn

from trainers.families.ptycho.config import ResidualConfig
from trainers.families.ptycho.networks import PatchNetwork
from trainers.families.ptycho.projection import ModulusProjection

_START = 0.7
"""Amplitude of the flat object to begin with: that of mean |O|^2 = 0.5, which the probe's scale supposes."""


class _Residual(nn.Module):
    """Two convolutions whose result is added; it begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))


class _Refinement(nn.Module):
    """A small U-Net of residual blocks over three scales; its answer begins as zero."""

    def __init__(self, before: int, after: int, width: int, blocks: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.enter = nn.Conv2d(before, width, 3, padding=1)
        self.fine, self.middle, self.coarse, self.final = (
            nn.Sequential(*(_Residual(channels) for _ in range(blocks))) for channels in (*widths, width)
        )
        self.down_middle = nn.Conv2d(widths[0], widths[1], 2, stride=2)
        self.down_coarse = nn.Conv2d(widths[1], widths[2], 2, stride=2)
        self.up_middle = nn.ConvTranspose2d(widths[2], widths[1], 2, stride=2)
        self.up_fine = nn.ConvTranspose2d(widths[1], widths[0], 2, stride=2)
        self.leave = nn.Conv2d(width, after, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(torch.relu(self.enter(x)))
        middle = self.middle(torch.relu(self.down_middle(fine)))
        coarse = self.coarse(torch.relu(self.down_coarse(middle)))
        return self.leave(self.final(fine + self.up_fine(middle + self.up_middle(coarse))))


class ResidualNetwork(PatchNetwork):
    """Stages of modulus projections, which know the physics, and a residual U-Net, which mends what that leaves open.

    So the network need not learn what a Fourier transform is: it begins as a few steps of an iterative engine for a single frame, and what
    it learns is local. Frames of a group are projected each for itself and mended together.

    Args:
        config: Frames, width, stages.
    """

    # A projection divides by moduli: rounding that another runtime does otherwise grows where a frame is dark.
    tolerance = 0.05

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__(config)
        self.projections = config.projections
        self.projection = ModulusProjection(config.size)
        channels = 2 * config.group
        self.stages = nn.ModuleList(_Refinement(2 * channels, channels, config.width, config.blocks) for _ in range(config.stages))

    def forward(self, amplitudes_bghw: torch.Tensor) -> torch.Tensor:
        """Return patches (b, g, 2, N, N)."""
        groups = amplitudes_bghw.shape[1]
        amplitudes_fhw = amplitudes_bghw.flatten(0, 1)
        probe = self.probe[:, 0], self.probe[:, 1]
        patch = torch.full_like(amplitudes_fhw, _START), torch.zeros_like(amplitudes_fhw)
        for stage in self.stages:
            before = self._centres(patch, groups)
            for _ in range(self.projections):
                patch = self.projection(patch, probe, amplitudes_fhw)
            found = self._centres(patch, groups)
            centre = (found + stage(torch.cat([found, before], dim=1))).unflatten(1, (groups, 2))
            patches_bgchw = self.padded(centre)
            patch = patches_bgchw[:, :, 0].flatten(0, 1), patches_bgchw[:, :, 1].flatten(0, 1)
        return patches_bgchw

    def _centres(self, patch: tuple[torch.Tensor, torch.Tensor], groups: int) -> torch.Tensor:
        """Return the central squares of patches (f, N, N) as channels of their groups, (b, 2 g, N/2, N/2)."""
        return self.centre(torch.stack(patch, dim=1)).unflatten(0, (-1, groups)).flatten(1, 2)
