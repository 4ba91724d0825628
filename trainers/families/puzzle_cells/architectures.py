"""The family's networks: strided convolutions, a global mean, and one linear layer that names the cell.

Tensor names carry their shape: n pieces, c channels, h rows, w columns, k cells.
"""

import torch
from torch import nn

from trainers.architectures import ArchitectureRegistry, Network
from trainers.families.puzzle_cells.config import GridConfig

ARCHITECTURES = ArchitectureRegistry()


class CellClassifier(Network):
    """Convolutions of 3x3 with stride 2 and ReLU, a global mean, and a linear layer over the cells.

    There is no normalisation layer: one picture is learnt by heart, and statistics of a batch would only blur it.

    Args:
        channels: Channels after each convolution.
        cells: Size of the output.
    """

    def __init__(self, channels: tuple[int, ...], cells: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            convolution = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
            # PyTorch's default shrinks the signal by a factor of about 2.4 a layer; with He's variance it keeps its
            # size, and the network learns the puzzle in half the epochs.
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels[-1], cells)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (float, n x k) for pieces (float, n x 3 x 64 x 64, values 0 to 1)."""
        features_nchw = self.features(image)
        return self.head(features_nchw.mean(dim=(2, 3)))


@ARCHITECTURES.register("cells_exp3", config=GridConfig, description="Three convolutions to 64 features: 85,334 parameters at 38 x 25.")
def cells_exp3(config: GridConfig) -> CellClassifier:
    """Build the small classifier, 3-16-32-64."""
    return CellClassifier((16, 32, 64), config.cells)


@ARCHITECTURES.register("cells_exp4", config=GridConfig, description="Four convolutions to 256 features: 632,566 parameters at 38 x 25.")
def cells_exp4(config: GridConfig) -> CellClassifier:
    """Build the larger classifier, 3-32-64-128-256."""
    return CellClassifier((32, 64, 128, 256), config.cells)
