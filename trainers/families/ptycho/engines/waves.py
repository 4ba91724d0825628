"""The forward model in torch, batched and with free extents: patches of an object, their far field, and the way back.

Only traceable operations, so that an engine becomes one graph for any number of frames, modes, rows and columns, and none that makes a
tensor on a named device, so that the graph runs on any. It agrees with `tessera.tasks.ptychography.physics`. Tensor names carry their
shape: b frames, m modes of the probe, n rows and columns of a frame, r rows and c columns of the object.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Windows:
    """Where the patches of some frames lie in an object; fractions of pixels are bilinear.

    Attributes:
        index_bnn: int64, flat indices into the object of the (n + 1) x (n + 1) pixels that a patch touches.
        x_b11: Fraction of a pixel to the right.
        y_b11: Fraction of a pixel downwards.
        shape: Rows and columns of the object.
    """

    index_bnn: torch.Tensor
    x_b11: torch.Tensor
    y_b11: torch.Tensor
    shape: tuple[int, int]

    @classmethod
    def at(cls, corners_b2: torch.Tensor, size: int, shape: tuple[int, int]) -> "Windows":
        """Return the windows of `size` pixels whose upper left pixels are (x, y) `corners_b2`, at least 0 and less than extent - size."""
        whole_b2 = corners_b2.floor()
        fraction_b2 = corners_b2 - whole_b2
        left_b, top_b = whole_b2.long().unbind(1)
        taps = left_b.new_ones(size + 1).cumsum(0) - 1
        index = (top_b[:, None, None] + taps[:, None]) * shape[1] + left_b[:, None, None] + taps
        return cls(index, fraction_b2[:, 0, None, None], fraction_b2[:, 1, None, None], shape)

    def read(self, object_rc: torch.Tensor) -> torch.Tensor:
        """Return the patches (b, n, n) of an object."""
        wide = torch.view_as_real(object_rc.flatten().index_select(0, self.index_bnn.flatten()).view(self.index_bnn.shape))
        across = torch.lerp(wide[:, :, :-1], wide[:, :, 1:], self.x_b11[..., None])
        return torch.view_as_complex(torch.lerp(across[:, :-1], across[:, 1:], self.y_b11[..., None]))

    def add_up(self, patches_bnn: torch.Tensor) -> torch.Tensor:
        """Return the sum (r, c) of patches, real or complex, each laid where it belongs: the transpose of `read`."""
        parts = torch.view_as_real(patches_bnn) if patches_bnn.is_complex() else patches_bnn[..., None]
        padded = functional.pad(parts, (0, 0, 1, 1, 1, 1))
        across = torch.lerp(padded[:, :, 1:], padded[:, :, :-1], self.x_b11[..., None])
        wide = torch.lerp(across[:, 1:], across[:, :-1], self.y_b11[..., None])
        values = torch.view_as_complex(wide) if patches_bnn.is_complex() else wide
        flat = values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_add(0, self.index_bnn.flatten(), values.flatten()).view(self.shape)


def intensity(waves: torch.Tensor) -> torch.Tensor:
    """Return |waves|^2, real."""
    return torch.addcmul(waves.real.square(), waves.imag, waves.imag)


@dataclass(frozen=True)
class Misfit:
    """How some frames differ from what object and probe make of them.

    Attributes:
        lack_bmnn: By which the exit waves would have to change, in the object's plane, for their amplitudes to be those recorded.
        residuals_b: sum((|Psi| - amplitude)^2).
        powers_b: sum(amplitude^2).
    """

    lack_bmnn: torch.Tensor
    residuals_b: torch.Tensor
    powers_b: torch.Tensor

    @classmethod
    def of(cls, waves_bmnn: torch.Tensor, amplitudes_bnn: torch.Tensor) -> "Misfit":
        """Return the misfit of exit waves to amplitudes whose zero frequency is in the centre; the phases at the detector are kept."""
        far_bmnn = torch.fft.fft2(waves_bmnn, norm="ortho")
        wanted_bnn = torch.fft.ifftshift(amplitudes_bnn, dim=(-2, -1))
        found_bnn = intensity(far_bmnn).sum(1).sqrt()
        missing_bnn = wanted_bnn - found_bnn
        # Where nothing was found there is no phase to keep, and nothing is changed.
        ratio_bnn = missing_bnn / found_bnn.clamp_min(1e-12)
        lack = torch.fft.ifft2(far_bmnn * ratio_bnn[:, None], norm="ortho")
        return cls(lack, missing_bnn.square().sum((-2, -1)), wanted_bnn.square().sum((-2, -1)))
