"""The engines by name, in the family's registry."""

from trainers.families.ptycho.architectures import ARCHITECTURES
from trainers.families.ptycho.engines.config import LsqmlConfig, RpieConfig
from trainers.families.ptycho.engines.lsqml import Lsqml
from trainers.families.ptycho.engines.rpie import Rpie


@ARCHITECTURES.register("rpie", config=RpieConfig, description="Iterative engine rPIE, batched; ePIE with alpha 1.", trained=False)
def rpie(config: RpieConfig) -> Rpie:
    """Build the engine of Maiden, Johnson and Li (2017)."""
    return Rpie(config.alpha, config.beta)


@ARCHITECTURES.register(
    "lsqml", config=LsqmlConfig, description="Iterative engine LSQ-ML, which solves for its step lengths.", trained=False
)
def lsqml(config: LsqmlConfig) -> Lsqml:
    """Build the engine of Odstrcil, Menzel and Guizar-Sicairos (2018)."""
    return Lsqml(config.alpha, config.beta)
