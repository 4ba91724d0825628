"""LSQ-ML, least squares maximum likelihood: every frame says how far object and probe should go.

M. Odstrcil, A. Menzel, M. Guizar-Sicairos: Iterative least-squares solver for generalized maximum-likelihood ptychography, Optics Express
26, 3108 (2018). The directions are those of `rpie`; the step lengths are not given but solved for, each by itself: with the term that
couples the two, the probe went 0.6 times as far, and a scan of a Siemens star took more than 10 passes where it takes 8 without.
"""

import torch

from trainers.families.ptycho.engines.engine import Engine, Look, product
from trainers.families.ptycho.engines.rpie import regularised
from trainers.families.ptycho.engines.waves import intensity

_DAMPING = 1e-3
"""Of the step lengths, as a share of the mean over the frames: a frame that says nothing must not ask for a large step."""


class Lsqml(Engine):
    """Steps of LSQ-ML.

    Args:
        alpha: Regularises the object's direction, 0 to 1: less is bolder where the light is weak.
        beta: Regularises the probe's direction in the same way.
    """

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    def changes(self, look: Look, object_step: torch.Tensor, probe_step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the changes of object and probe."""
        light_rc = look.windows.add_up(look.light_nn.expand_as(look.patches_bnn.real))
        towards_rc = look.windows.add_up(look.towards_bnn) / regularised(light_rc, self.alpha)
        seen_bnn = intensity(look.patches_bnn)
        towards_mnn = (look.patches_bnn.conj()[:, None] * look.misfit.lack_bmnn).sum(0) / regularised(seen_bnn.sum(0), self.beta)
        # As the frames see them: the one direction on its way through the probe, the other through the patches.
        object_bnn, probe_bnn = look.windows.read(towards_rc), (towards_mnn.conj() * look.misfit.lack_bmnn).sum(1)
        object_b = _length(product(object_bnn, look.towards_bnn), look.light_nn * intensity(object_bnn))
        probe_b = _length(product(look.patches_bnn, probe_bnn), seen_bnn * intensity(towards_mnn).sum(0))
        return towards_rc * (object_step * object_b.mean()), towards_mnn * (probe_step * probe_b.mean())


def _length(product_bnn: torch.Tensor, square_bnn: torch.Tensor) -> torch.Tensor:
    """Return how far each frame wants to go (b,): the least squares fit of what its waves lack by the change of its waves.

    Args:
        product_bnn: Re(conj(change) lack), wherever it is easiest to sum.
        square_bnn: |change|^2, in the same way.
    """
    product_b, square_b = product_bnn.sum((1, 2)), square_bnn.sum((1, 2))
    return product_b / (square_b + _DAMPING * square_b.mean() + 1e-30)
