"""rPIE, the regularised ptychographical iterative engine, for many frames at once; with alpha 1 and one frame it is ePIE.

A. Maiden, D. Johnson, P. Li: Further improvements to the ptychographical iterative engine, Optica 4, 736 (2017), equations 24 and 25. For
several frames numerators and denominators are summed over the frames first.
"""

import torch

from trainers.families.ptycho.engines.engine import Engine, Look
from trainers.families.ptycho.engines.waves import intensity


class Rpie(Engine):
    """Steps of rPIE.

    Args:
        alpha: Regularises the object's update, 0 to 1: 1 is ePIE, less is bolder where the probe is weak.
        beta: Regularises the probe's update in the same way.
    """

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    def changes(self, look: Look, object_step: torch.Tensor, probe_step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the changes of object and probe."""
        light_rc = look.windows.add_up(look.light_nn.expand_as(look.patches_bnn.real))
        change_rc = look.windows.add_up(look.towards_bnn) * (object_step / regularised(light_rc, self.alpha))
        seen_nn = intensity(look.patches_bnn).sum(0)
        towards_mnn = (look.patches_bnn.conj()[:, None] * look.misfit.lack_bmnn).sum(0)
        return change_rc, towards_mnn * (probe_step / regularised(seen_nn, self.beta))


def regularised(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Return a weight, moved by a share towards its maximum."""
    return (1 - share) * weight + share * weight.amax() + 1e-12
