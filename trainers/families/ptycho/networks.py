"""What the family's networks have in common, and the simpler of the two.

Tensor names carry their shape: b batch, g frames of a group, c channels, h rows, w columns, m modes of the probe.
"""

from typing import Any

import torch
from torch import nn

from trainers.architectures import Network
from trainers.families.ptycho.config import NetworkConfig


class PatchNetwork(Network):
    """Base of the networks: from amplitudes (b, g, N, N), scaled by the task's normaliser, to patches (b, g, 2, N, N).

    Attributes:
        probe: (modes, 2, N, N), real and imaginary part; the data set it before training, and training may change it.
        tolerance: How far patches, whose amplitudes are about 1, may differ from one runtime to the next.
    """

    tolerance = 1e-4

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.group = config.group
        self.margin = config.size // 4
        self.probe = nn.Parameter(torch.zeros(config.modes, 2, config.size, config.size))

    def centre(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the central square (..., N/2, N/2) of patches (..., N, N), which is all that the network answers."""
        inside = slice(self.margin, -self.margin)
        return patches[..., inside, inside]

    def padded(self, centre: torch.Tensor) -> torch.Tensor:
        """Return patches of the central square (..., N/2, N/2) as (..., N, N), zero where nothing is known."""
        return nn.functional.pad(centre, [self.margin] * 4)


def _block(before: int, after: int) -> list[nn.Module]:
    """Two convolutions of 3x3, each with ReLU."""
    return [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()]


class ConvolutionalNetwork(PatchNetwork):
    """An encoder of three levels and two decoders, for amplitude and phase, of the central square.

    Args:
        config: Frames and width.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        width = config.width
        levels: list[nn.Module] = []
        for before, after in ((config.group, width), (width, 2 * width), (2 * width, 4 * width)):
            levels += [*_block(before, after), nn.MaxPool2d(2)]
        self.encoder = nn.Sequential(*levels)
        self.amplitude = self._decoder(width, config.group)
        self.phase = self._decoder(width, config.group)

    @staticmethod
    def _decoder(width: int, group: int) -> nn.Sequential:
        layers: list[Any] = []
        for before, after in ((4 * width, 2 * width), (2 * width, width)):
            layers += [*_block(before, after), nn.Upsample(scale_factor=2)]
        head = [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, group, 3, padding=1)]
        return nn.Sequential(*layers, *head)

    def forward(self, amplitudes_bghw: torch.Tensor) -> torch.Tensor:
        """Return patches (b, g, 2, N, N); amplitudes 0 to 1, phases -pi to pi."""
        features_bchw = self.encoder(amplitudes_bghw)
        amplitude_bghw = torch.sigmoid(self.amplitude(features_bchw))
        phase_bghw = torch.pi * torch.tanh(self.phase(features_bchw))
        centre = torch.stack([amplitude_bghw * phase_bghw.cos(), amplitude_bghw * phase_bghw.sin()], dim=2)
        return self.padded(centre)
