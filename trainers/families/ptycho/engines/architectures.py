"""The engines by name, in the family's registry."""

from trainers.families.ptycho.architectures import ARCHITECTURES
from trainers.families.ptycho.engines.config import RpieConfig
from trainers.families.ptycho.engines.rpie import Rpie


@ARCHITECTURES.register("rpie", config=RpieConfig, description="Iterative engine rPIE, batched; ePIE with alpha 1.", trained=False)
def rpie(config: RpieConfig) -> Rpie:
    """Build the engine of Maiden, Johnson and Li (2017)."""
    return Rpie(config.alpha, config.beta)
