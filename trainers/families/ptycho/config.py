"""Settings of the family: the frames and the width shape a network, the hyperparameters its training."""

from typing import Literal

from pydantic import Field

from trainers.architectures import ArchitectureConfig
from trainers.family import Hyperparameters


class NetworkConfig(ArchitectureConfig):
    """What shapes a network: its frames, and how much it can hold."""

    size: int = Field(64, ge=16, le=256, multiple_of=8, description="N: pixels of a frame's side.")
    width: int = Field(64, ge=4, le=256, description="Channels of the first layers; deeper ones have more.")
    gridsize: Literal[1, 2] = Field(1, description="1: single frames; 2: groups of four neighbours that must agree where they overlap.")
    modes: int = Field(1, ge=1, le=16, description="Modes of the probe.")

    @property
    def group(self) -> int:
        """Frames that the network sees at once, gridsize squared."""
        return self.gridsize**2


class ResidualConfig(NetworkConfig):
    """What shapes the hybrid residual network."""

    width: int = Field(12, ge=4, le=256, description="Channels at the finest scale; the two coarser ones have 2 and 4 times as many.")
    stages: int = Field(2, ge=1, le=8, description="Times that the frame is explained by projections, each with a residual U-Net after it.")
    projections: int = Field(5, ge=1, le=100, description="Projections onto the measured moduli in each stage.")
    blocks: int = Field(1, ge=1, le=16, description="Residual blocks at each scale of a U-Net.")


class PtychoHyperparameters(Hyperparameters):
    """Defaults as in Hoidn, Mishra and Mehta (2023); the model card has shorter recipes."""

    epochs: int = Field(50, ge=1, le=1_000_000, description="Passes over the frames.")
    batch_size: int = Field(16, ge=1, le=1_000_000, description="Groups of frames a step, over all devices together.")
    supervision: Literal["physics", "supervised"] = Field(
        "physics", description="Learn from the frames alone, through the forward model, or (the twin) from patches of the true object."
    )
    loss: Literal["poisson", "mae"] = Field("poisson", description="Of physics: Poisson on intensities, or mean error of amplitudes.")
    learn_probe: bool = Field(False, description="Improve the probe during training.")
    overlap: int = Field(
        6, ge=1, le=64, description="Neighbours, the frame itself among them, whose merged patches must explain it; 1: each alone."
    )
    own_weight: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Of a frame's own patch among those merged: the less, the less its noise counts.",
    )
