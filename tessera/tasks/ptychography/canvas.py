"""The canvas of a stream: patches are put together as they come, with the semantics of `reassembly`, at absolute positions."""

import numpy as np
from numpy.typing import NDArray

from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.tasks.ptychography.offsets import Trail, check_not_collapsed
from tessera.tasks.ptychography.patches import (
    central,
    check_offsets,
    check_shapes,
    check_side,
    check_weights,
    cropped_weights,
    divide,
    empty_sums,
    scatter,
    snapped,
)

_PIXELS_AT_ONCE = 1 << 16  # of patches that are translated together: bounds the memory of a call
_SLACK = 4  # a canvas that grows takes a fraction of its side more than it needs, so that it seldom grows


class Canvas:
    """An object that grows as patches come, for streams: memory depends on its extent, not on the number of patches.

    Patches lie at their absolute positions, so nothing has to be known of those that will come. With positions whose mean is whole it
    holds, pixel for pixel, what `reassemble` makes of them; otherwise the object is sampled at other fractions of a pixel.

    Args:
        size: N, pixels of a patch's side.
        crop: M, pixels of its central square that is used.
        weights: (N, N), >= 0, the weight of each pixel of a patch; None for ones.
        trail: Where "canvas" is recorded; boundaries before it are the caller's to record. None for one of its own.
        coherent: Turn each patch by the constant phase with which it fits best what is there already. A frame's intensities do not tell
            that phase, so a network cannot know it; patches should come such that most overlap with one before.

    One thread at a time may use it.

    Raises:
        InvalidArgumentError: Crop or weights do not fit the size.
    """

    def __init__(
        self,
        size: int,
        crop: int,
        weights: NDArray[np.floating] | None = None,
        *,
        trail: Trail | None = None,
        coherent: bool = False,
    ) -> None:
        check_shapes((1, size, size), (1, 2), crop, None if weights is None else weights.shape)
        check_weights(weights)
        self.trail = trail or Trail()
        self._size, self._crop, self._coherent = size, crop, coherent
        self._pixel_weights = cropped_weights(weights, size, crop, np.complex64)
        self._first = np.full(2, np.inf)  # (x, y) of the upper left pixel that patches cover
        self._last = np.full(2, -np.inf)  # one beyond the lower right one
        self._origin = np.zeros(2)  # (x, y) of the sums' pixel [0, 0]
        self._sums = empty_sums(0, 0, np.float32)

    def add(self, patches: NDArray[np.complexfloating], positions: NDArray[np.floating]) -> None:
        """Put patches on the canvas.

        Args:
            patches: Complex, (k, N, N); none is fine.
            positions: (k, 2), (x, y) of their centres, pixel (N // 2, N // 2).

        Raises:
            InvalidArgumentError: Shapes do not fit, or a position is not finite.
            ResourceExhaustedError: The canvas would have more than `patches.MAX_SIDE` pixels a side; it stays as it was.
        """
        if len(patches) == 0:
            return
        if patches.shape[1:] != (self._size, self._size):
            raise InvalidArgumentError(f"patches must be (k, {self._size}, {self._size}), not {patches.shape}", field="patches")
        check_shapes(patches.shape, positions.shape, self._crop, None)
        check_offsets(positions)
        corners = snapped(np.subtract(positions, self._crop // 2, dtype=np.float64))
        self._grow(corners)
        self.trail.record("canvas", positions)
        at_once = max(1, _PIXELS_AT_ONCE // self._crop**2)
        for start in range(0, len(patches), at_once):
            chunk = slice(start, start + at_once)
            places = corners[chunk] - self._origin
            scatter(self._sums, central(patches[chunk], self._crop), self._pixel_weights, places, coherent=self._coherent)

    def object(self) -> NDArray[np.complex64]:
        """Return the object as it stands, complex64 (rows, columns), zero where no patch lies; a copy.

        Raises:
            FailedPreconditionError: No patch has come.
        """
        return divide(self._sums[self._covered]).astype(np.complex64, copy=False)

    @property
    def weight(self) -> NDArray[np.float32]:
        """Return the summed weights, float32 (rows, columns); a view that changes with the canvas.

        Raises:
            FailedPreconditionError: No patch has come.
        """
        return self._sums[self._covered][..., 2]

    @property
    def corner(self) -> tuple[int, int]:
        """Return (x, y) of the object's upper left pixel in the coordinates of positions.

        Raises:
            FailedPreconditionError: No patch has come.
        """
        self._require_patches()
        return int(self._first[0]), int(self._first[1])

    def check_not_collapsed(self) -> None:
        """Refuse an object that covers less than the positions at the trail's first boundary must, see `offsets.check_not_collapsed`.

        Raises:
            InvalidArgumentError: The positions of the scan itself lie within one pixel.
            TesseraError: Offsets were lost between two boundaries, which it names.
            FailedPreconditionError: No patch has come.
        """
        check_not_collapsed(self.trail, self.weight, self._pixel_weights)

    @property
    def _covered(self) -> tuple[slice, slice]:
        """Return rows and columns of the sums that patches cover."""
        self._require_patches()
        (left, top), (right, bottom) = (self._first - self._origin).astype(int), (self._last - self._origin).astype(int)
        return slice(top, bottom), slice(left, right)

    def _require_patches(self) -> None:
        if not np.isfinite(self._first).all():
            raise FailedPreconditionError("the canvas is empty: add patches first")

    def _grow(self, corners: NDArray[np.float64]) -> None:
        """Make room for patches with these upper left corners (k, 2)."""
        first = np.minimum(self._first, np.floor(corners).min(axis=0))
        last = np.maximum(self._last, np.ceil(corners).max(axis=0) + self._crop)
        check_side((last - first).max())
        self._first, self._last = first, last
        rows, columns, _ = self._sums.shape
        end = self._origin + np.array([columns, rows])
        low, high = (rows == 0) | (first < self._origin), (rows == 0) | (last + 1 > end)
        if not (low | high).any():
            return
        slack = (last - first) // _SLACK
        # The pixel beyond the last is for the column of zeros that patches at whole pixels bring along.
        origin, end = np.where(low, first - slack, self._origin), np.where(high, last + 1 + slack, end)
        width, height = (end - origin).astype(int)
        x, y = (self._origin - origin).astype(int)
        sums = empty_sums(height, width, np.float32)
        sums[y : y + rows, x : x + columns] = self._sums
        self._origin, self._sums = origin, sums
