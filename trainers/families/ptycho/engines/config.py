"""Settings of the engines. They are algorithms: nothing of them is learnt, so what shapes them is all that there is."""

from pydantic import Field

from trainers.architectures import ArchitectureConfig


class EngineConfig(ArchitectureConfig):
    """What every engine has."""

    size: int = Field(64, ge=16, le=1024, multiple_of=2, description="N: pixels of a frame's side.")
    batch: int = Field(
        32, ge=1, le=1024, description="Frames of a step, unless a caller says otherwise; fewer take longer and get further."
    )


class RpieConfig(EngineConfig):
    """What shapes rPIE."""

    alpha: float = Field(0.3, gt=0, le=1, description="Of the object: 1 is ePIE, less is bolder where the probe is weak.")
    beta: float = Field(0.3, gt=0, le=1, description="Of the probe, in the same way.")


class LsqmlConfig(EngineConfig):
    """What shapes LSQ-ML."""

    alpha: float = Field(0.3, gt=0, le=1, description="Regularises the object's direction: less is bolder where the light is weak.")
    beta: float = Field(0.3, gt=0, le=1, description="Regularises the probe's direction, in the same way.")
