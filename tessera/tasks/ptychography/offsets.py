"""Where offsets are on their way from a scan to the canvas, and the guard against losing them.

If offsets are made equal somewhere (a broadcast, a mean over the wrong axis, a wrong unit), all patches land on one place: the object
comes out as large as one patch, and nothing fails. So whoever passes offsets on records them at each boundary in a `Trail`, and
`check_not_collapsed` compares the trail with what was covered. `TESSERA_STITCH_DEBUG=1` logs a line at each boundary.
"""

import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import structlog
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError, TesseraError

log = structlog.get_logger()

DEBUG_VARIABLE = "TESSERA_STITCH_DEBUG"
"""Environment variable; "1" logs the offsets at each boundary."""
MAX_UNIQUE = 10_000
"""Distinct offsets that a trail counts at a boundary; with more it says "10000 or more", so that its memory is bounded."""
_ROUNDING = 0.01  # px; single precision keeps offsets of canvases of 100 000 pixels better than this


def debugging() -> bool:
    """Return whether offsets are to be logged."""
    return os.environ.get(DEBUG_VARIABLE) == "1"


@dataclass(frozen=True, slots=True)
class OffsetSummary:
    """The offsets that passed one boundary; pairs are (x, y), pixels.

    Attributes:
        boundary: Its name.
        shape: Of the array that held the offsets; (count, 2) if there were several.
        minimum: Least of each component.
        maximum: Greatest of each component.
        std: Standard deviation of each component (of the offsets as they are, not an estimate for more).
        unique: Number of distinct offsets, at most `MAX_UNIQUE`.
    """

    boundary: str
    shape: tuple[int, ...]
    minimum: tuple[float, float]
    maximum: tuple[float, float]
    std: tuple[float, float]
    unique: int

    @property
    def span(self) -> NDArray[np.float64]:
        """Return maximum - minimum, float64 (2,)."""
        return np.subtract(self.maximum, self.minimum)

    def __str__(self) -> str:
        """Return a line for people."""
        pairs = (f"{name}=({x:g}, {y:g})" for name, (x, y) in (("min", self.minimum), ("max", self.maximum), ("std", self.std)))
        more = " or more" if self.unique == MAX_UNIQUE else ""
        return f"{self.boundary}: shape={self.shape} {' '.join(pairs)} unique={self.unique}{more}"


class _Boundary:
    """All offsets that passed one boundary, kept as sums; a stream passes in pieces."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shape: tuple[int, ...] = ()
        self._count = 0
        self._minimum = np.full(2, np.inf)
        self._maximum = np.full(2, -np.inf)
        self._mean = np.zeros(2)
        self._squares = np.zeros(2)  # sum of squared differences to the mean
        self._rows: set[tuple[float, float]] = set()

    def add(self, offsets: NDArray[np.floating]) -> None:
        rows = offsets.reshape(-1, 2).astype(np.float64)
        if len(rows) == 0:
            return
        self._shape = (self._count + len(rows), 2) if self._count else offsets.shape
        self._minimum, self._maximum = np.minimum(self._minimum, rows.min(0)), np.maximum(self._maximum, rows.max(0))
        # Means and squares of two sets are merged as in Chan, Golub, LeVeque (1979): no digits are lost to large positions.
        apart, count = rows.mean(0) - self._mean, self._count + len(rows)
        self._squares += ((rows - rows.mean(0)) ** 2).sum(0) + apart**2 * self._count * len(rows) / count
        self._mean += apart * len(rows) / count
        self._count = count
        if len(self._rows) < MAX_UNIQUE:
            self._rows.update((x, y) for x, y in rows.tolist())

    def summary(self) -> OffsetSummary:
        std = np.sqrt(self._squares / max(self._count, 1))
        low, high, spread = ((float(x), float(y)) for x, y in (self._minimum, self._maximum, std))
        return OffsetSummary(self._name, self._shape, low, high, spread, min(len(self._rows), MAX_UNIQUE))


class Trail:
    """Offsets at each boundary that they passed, in the order in which boundaries were first passed; bounded memory.

    All boundaries of a trail speak of the same patches. They may differ by a shift of all offsets (a mean that was removed), not by more.
    """

    def __init__(self) -> None:
        self._boundaries: dict[str, _Boundary] = {}

    def record(self, boundary: str, offsets: NDArray[np.floating]) -> None:
        """Note the offsets (..., 2), as (x, y) in pixels, that pass a boundary now; those of earlier calls with its name stay counted."""
        self._boundaries.setdefault(boundary, _Boundary(boundary)).add(offsets)
        if debugging():
            passing = _Boundary(boundary)
            passing.add(offsets)
            log.info("offsets", summary=str(passing.summary()))

    @property
    def summaries(self) -> tuple[OffsetSummary, ...]:
        """Return what passed, a summary for each boundary."""
        return tuple(boundary.summary() for boundary in self._boundaries.values())


def check_not_collapsed(trail: Trail, weight: NDArray[np.floating], patch_weight: NDArray[np.floating]) -> None:
    """Refuse a reassembly that covers less than the distinct positions of its scan must cover.

    Patches whose centres lie d pixels apart cover at least floor(d) pixels more than one patch, along each axis.

    Args:
        trail: Offsets at each boundary, the first of them the scan's positions.
        weight: (rows, columns), the summed weights of the reassembly; what is above zero is covered.
        patch_weight: (M, M), the weights of one patch, uniform or not.

    Raises:
        InvalidArgumentError: The scan's own positions are distinct, but within one pixel of each other: a wrong unit.
        TesseraError: The offsets were lost on the way; the message names the boundary and tells the trail.
    """
    summaries = trail.summaries
    if not summaries or summaries[0].unique < 2:
        return
    scan = summaries[0]
    if (scan.span < 1).all():
        reason = f"the {scan.unique} distinct positions lie within one pixel of each other: they must be in pixels of the object"
        raise InvalidArgumentError(f"{reason}, not in metres ({scan})", field="positions")
    covered, needed = _extent(weight), np.floor(scan.span - _ROUNDING) + _extent(patch_weight)
    if (covered < needed).any():
        raise TesseraError(
            f"offsets were lost {_where_lost(summaries)}: {scan.unique} distinct positions cover {covered[0]:.0f} x {covered[1]:.0f} "
            f"pixels, at least {needed[0]:.0f} x {needed[1]:.0f} expected; offsets at each boundary: {'; '.join(map(str, summaries))}"
        )


def _where_lost(summaries: tuple[OffsetSummary, ...]) -> str:
    for before, after in pairwise(summaries):
        if (after.span < before.span - _ROUNDING).any():
            return f"between {before.boundary!r} and {after.boundary!r}"
    return f"after {summaries[-1].boundary!r}, by what puts patches on the canvas"


def _extent(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return width and height of the smallest rectangle that holds all that is above zero, (2,)."""
    sides = [np.flatnonzero((weight > 0).any(axis=axis)) for axis in (0, 1)]
    return np.array([side[-1] - side[0] + 1 if len(side) else 0 for side in sides], np.float64)
