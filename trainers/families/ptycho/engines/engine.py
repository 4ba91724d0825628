"""What all engines have in common: one step from tensors to tensors, in which only the update of object and probe differs.

Tensor names as in `waves`.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from trainers.architectures import Network
from trainers.families.ptycho.engines.waves import Misfit, Windows, intensity
from trainers.families.ptycho.physics import to_channels, to_complex

_FARTHEST_MOVE = 0.5
"""Pixels that a position moves in a step at most: beyond, the slopes that it was computed from say nothing."""


class Engine(Network):
    """One step of an iterative engine, with the tensors of `signatures.engine_signature`; it has no parameters."""

    def forward(
        self, objects: torch.Tensor, probes: torch.Tensor, amplitudes: torch.Tensor, corners: torch.Tensor, steps: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return object, probe and corners improved, and how the frames fitted before, as `signatures.engine_signature` says."""
        object_rc, probe_mnn = to_complex(objects[0]), to_complex(probes[0])
        object_step, probe_step, position_step = steps[0].unbind()
        look = Look.at(object_rc, probe_mnn, amplitudes[0], corners[0])
        change_rc, change_mnn = self.changes(look, object_step, probe_step)
        new_object_rc, new_probe_mnn = object_rc + change_rc, probe_mnn + change_mnn
        # A brighter probe and a darker object make the same frames. Left alone the two run away, so the probe's power stays.
        gain = (intensity(probe_mnn).sum() / intensity(new_probe_mnn).sum()).sqrt()
        moved_b2 = corners[0] + position_step * _moves(look)
        room = amplitudes.shape[-1] + 2
        inside = [moved_b2[:, axis].clamp(1, objects.shape[-1 - axis] - room) for axis in (0, 1)]
        return (
            to_channels(new_object_rc / gain)[None],
            to_channels(new_probe_mnn * gain)[None],
            torch.stack(inside, dim=1)[None],
            look.misfit.residuals_b[None],
            look.misfit.powers_b[None],
        )

    @abstractmethod
    def changes(self, look: "Look", object_step: torch.Tensor, probe_step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return by how much the object (r, c) and the probe (m, n, n) change; the step lengths are scalars."""


@dataclass(frozen=True)
class Look:
    """Object and probe as some frames see them.

    Attributes:
        windows: Where the frames lie.
        patches_bnn: The object there.
        probe_mnn: The probe.
        misfit: Of model and frames.
        towards_bnn: Sum over modes of conj(probe) and what the exit waves lack: the direction in which a patch should change.
        light_nn: Sum over modes of |probe|^2.
    """

    windows: Windows
    patches_bnn: torch.Tensor
    probe_mnn: torch.Tensor
    misfit: Misfit
    towards_bnn: torch.Tensor
    light_nn: torch.Tensor

    @classmethod
    def at(cls, object_rc: torch.Tensor, probe_mnn: torch.Tensor, amplitudes_bnn: torch.Tensor, corners_b2: torch.Tensor) -> "Look":
        """Compute it."""
        windows = Windows.at(corners_b2, amplitudes_bnn.shape[-1], object_rc.shape)
        patches_bnn = windows.read(object_rc)
        misfit = Misfit.of(probe_mnn * patches_bnn[:, None], amplitudes_bnn)
        towards_bnn = (probe_mnn.conj() * misfit.lack_bmnn).sum(1)
        return cls(windows, patches_bnn, probe_mnn, misfit, towards_bnn, intensity(probe_mnn).sum(0))


def _moves(look: Look) -> torch.Tensor:
    """Return by how much the corners (b, 2) should move: the least squares fit of what the waves lack by their slopes in x and y.

    All frames moving together is the object moving, so the mean move is left out.
    """
    patches_bnn = look.patches_bnn
    right_bnn = (patches_bnn[:, 1:-1, 2:] - patches_bnn[:, 1:-1, :-2]) / 2
    down_bnn = (patches_bnn[:, 2:, 1:-1] - patches_bnn[:, :-2, 1:-1]) / 2
    light_nn, towards_bnn = look.light_nn[1:-1, 1:-1], look.towards_bnn[:, 1:-1, 1:-1]
    xx, yy = ((light_nn * intensity(slope_bnn)).sum((1, 2)) for slope_bnn in (right_bnn, down_bnn))
    xy = (light_nn * product(right_bnn, down_bnn)).sum((1, 2))
    x, y = (product(slope_bnn, towards_bnn).sum((1, 2)) for slope_bnn in (right_bnn, down_bnn))
    # Where the object is flat nothing says where a frame lies; the damping keeps it there.
    damping = 1e-2 * (xx + yy).mean() + 1e-12
    xx, yy = xx + damping, yy + damping
    moves_b2 = torch.stack([yy * x - xy * y, xx * y - xy * x], dim=1) / (xx * yy - xy.square())[:, None]
    return (moves_b2 - moves_b2.mean(0)).clamp(-_FARTHEST_MOVE, _FARTHEST_MOVE)


def product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return Re(conj(one) other)."""
    return torch.addcmul(one.real * other.real, one.imag, other.imag)
