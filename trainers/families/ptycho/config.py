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


class PtychoHyperparameters(Hyperparameters):
    """Defaults as in Hoidn, Mishra and Mehta (2023); the model card has shorter recipes."""

    epochs: int = Field(50, ge=1, le=1_000_000, description="Passes over the frames.")
    batch_size: int = Field(16, ge=1, le=1_000_000, description="Groups of frames a step, over all devices together.")
    supervision: Literal["physics", "supervised"] = Field(
        "physics", description="Learn from the frames alone, through the forward model, or (the twin) from patches of the true object."
    )
    loss: Literal["poisson", "mae"] = Field("poisson", description="Of physics: Poisson on intensities, or mean error of amplitudes.")
    learn_probe: bool = Field(False, description="Improve the probe during training.")
    neighbours: int = Field(6, ge=1, le=1000, description="Nearest frames that the others of a group are drawn from.")
