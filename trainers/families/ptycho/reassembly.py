"""Patches put together to one object, in PyTorch: batched, differentiable in patches, weights and offsets, on any device.

The semantics are those of `tessera.tasks.ptychography.reassembly`, step by step. A translation by a fraction of a pixel is two products,
along columns and along rows, so each patch's pixels are added to the canvas once, not once for each of the four pixels they touch.

Gradients with respect to offsets and weights are those of the definition, and so are huge at the rim, where a pixel is hardly covered:
take losses where the weight is not small.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.offsets import Trail, check_not_collapsed, debugging
from tessera.tasks.ptychography.patches import EPSILON, STEP, central, check_shapes, check_side


def reassemble(
    patches: Tensor,
    offsets: Tensor,
    crop: int,
    *,
    weights: Tensor | None = None,
    canvas: int | None = None,
    trail: Trail | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the objects that groups of patches make, and the sum of the weights at each of their pixels.

    Args:
        patches: Complex, (..., B, N, N): any number of groups of B patches; each group makes an object of its own.
        offsets: Real, (..., B, 2), (x, y) = (column, row), pixels; only differences within a group matter.
        crop: M, pixels of the central square of a patch that is used, 1 to N.
        weights: Real, (N, N), >= 0, the weight of each pixel of a patch before it is cropped; None for ones.
        canvas: Side of the canvas in place of S; what is outside is cut off. With it, no value is read back from the device.
        trail: Where "offsets" and "centred" of a single group are recorded; with it, and without `canvas`, offsets that were lost since its
            first boundary are an error.

    Returns:
        Objects, complex (..., S, S), S the same for all: as large as the group that reaches farthest needs; and weights, real
        (..., S, S). Both zero where no patch lies.

    Raises:
        InvalidArgumentError: Shapes do not fit together; a trail for several groups.
        ResourceExhaustedError: The canvas would have more than `patches.MAX_SIDE` pixels a side, or an offset is not finite.
        TesseraError: The guard, see `offsets.check_not_collapsed`.
    """
    check_shapes(tuple(patches.shape), tuple(offsets.shape), crop, None if weights is None else tuple(weights.shape))
    adjusted = _snapped(offsets.double() - offsets.double().mean(dim=-2, keepdim=True))
    if trail is not None and patches.ndim > 3:
        raise InvalidArgumentError(f"a trail follows one group of patches, not {tuple(patches.shape[:-3])} of them", field="trail")
    if trail is not None or debugging():
        passed = trail or Trail()
        passed.record("offsets", offsets.detach().cpu().numpy())
        passed.record("centred", adjusted.detach().cpu().numpy())
    side = crop + 2 * _padding(adjusted) if canvas is None else canvas
    cropped = central(patches, crop)
    pixel_weights = torch.ones_like(cropped[..., :1, :, :].real) if weights is None else central(weights, crop).to(cropped.real.dtype)
    corners = adjusted + (side // 2 - crop // 2)
    total, weight = _scattered(cropped * pixel_weights, corners, side), _scattered(pixel_weights.expand(cropped.shape), corners, side)
    if trail is not None and canvas is None:
        check_not_collapsed(trail, weight.detach().cpu().numpy(), pixel_weights.detach().cpu().numpy().reshape(crop, crop))
    return total / (EPSILON + weight), weight


def _snapped(places: Tensor) -> Tensor:
    """Return places at the nearest multiples of `STEP`; gradients pass as if they were not moved."""
    return places + (torch.round(places.detach() / STEP) * STEP - places.detach())


def _padding(adjusted: Tensor) -> int:
    """Return the pixels on each side of the canvas that hold patches at these centred offsets: even, and no fewer than needed."""
    pixels = float(adjusted.detach().abs().max().ceil())
    check_side(2 * pixels)
    return int(pixels + pixels % 2)


def _scattered(patches: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return the sums (..., side, side) of patches (..., B, M, M) whose upper left pixels lie at corners (..., B, 2), as (x, y)."""
    whole = corners.detach().floor()
    values = _translated(patches, corners - whole)
    reach = torch.arange(values.shape[-1], device=patches.device)
    columns, rows = (whole[..., axis, None].long() + reach for axis in (0, 1))
    inside = _inside(rows, side)[..., :, None] & _inside(columns, side)[..., None, :]
    groups = torch.arange(patches.shape[:-3].numel(), device=patches.device).reshape(*patches.shape[:-3], 1, 1, 1)
    places = (groups * side + rows.clamp(0, side - 1)[..., :, None]) * side + columns.clamp(0, side - 1)[..., None, :]
    flat = torch.zeros(groups.numel() * side * side, dtype=values.dtype, device=values.device)
    return flat.index_add(0, places.flatten(), (values * inside).flatten()).reshape(*patches.shape[:-3], side, side)


def _translated(patches: Tensor, fraction: Tensor) -> Tensor:
    """Return patches (..., M, M), translated right and down by fractions of a pixel (..., 2), bilinearly: (..., M + 1, M + 1)."""
    # Taken from one in double precision: a small share keeps its digits.
    shares = torch.stack([fraction, 1 - fraction]).to(patches.real.dtype)[..., None, None]
    (x, y), (rest_x, rest_y) = (share.unbind(-3) for share in shares)
    wide = pad(patches * rest_x, (0, 1)) + pad(patches * x, (1, 0))
    return pad(wide * rest_y, (0, 0, 0, 1)) + pad(wide * y, (0, 0, 1, 0))


def _inside(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)
