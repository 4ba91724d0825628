"""LSQ-ML, least squares maximum likelihood: every frame says how far object and probe should go, together.

M. Odstrcil, A. Menzel, M. Guizar-Sicairos: Iterative least-squares solver for generalized maximum-likelihood ptychography, Optics Express
26, 3108 (2018), sections 3.2 to 3.4. The directions are those of `rpie`; the step lengths are not given but solved for.
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
        seen_nn = intensity(look.patches_bnn).sum(0)
        towards_mnn = (look.patches_bnn.conj()[:, None] * look.misfit.lack_bmnn).sum(0) / regularised(seen_nn, self.beta)
        object_b, probe_b = _lengths(look, look.windows.read(towards_rc), towards_mnn, probe_step > 0)
        return towards_rc * (object_step * object_b.mean()), towards_mnn * (probe_step * probe_b.mean())


def _lengths(look: Look, towards_bnn: torch.Tensor, towards_mnn: torch.Tensor, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the step lengths (b,) of object and probe with which the exit waves of each frame lack least, in least squares.

    Args:
        look: Object and probe as the frames see them.
        towards_bnn: Direction of the object, as the frames see it.
        towards_mnn: Direction of the probe.
        both: Whether the probe goes too; otherwise the object's length does not count on it.
    """
    lack_bnn = (towards_mnn.conj() * look.misfit.lack_bmnn).sum(1)
    cross_nn = (look.probe_mnn.conj() * towards_mnn).sum(0)
    oo = (look.light_nn * intensity(towards_bnn)).sum((1, 2))
    pp = (intensity(towards_mnn).sum(0) * intensity(look.patches_bnn)).sum((1, 2))
    op = product(towards_bnn, cross_nn * look.patches_bnn).sum((1, 2)) * both
    o, p = product(towards_bnn, look.towards_bnn).sum((1, 2)), product(look.patches_bnn, lack_bnn).sum((1, 2))
    oo, pp = (square + _DAMPING * square.mean() + 1e-30 for square in (oo, pp))
    determinant = oo * pp - op.square()
    return (pp * o - op * p) / determinant, (oo * p - op * o) / determinant
