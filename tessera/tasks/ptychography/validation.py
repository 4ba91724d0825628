"""Checks of scans that come from outside: each names what is wrong, where, and what would be right.

They are in pieces because a scan may come in pieces: shapes and positions can be judged before the frames are read, and frames a few at a
time.
"""

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.centring import check_centred
from tessera.tasks.ptychography.orientation import check_axes
from tessera.tasks.ptychography.patches import MAX_SIDE
from tessera.tasks.ptychography.scan import Scan
from tessera.tensors import Array

MIN_SIZE, MAX_SIZE = 16, 1024
"""Least and greatest N, pixels."""
MIN_FRAMES = 2
"""One frame overlaps with none."""
MAX_MODES = 64
"""Most modes of a probe."""

_FRAME_AXES, _PAIR = 3, 2
_SAMPLES = 64
_FAR = 1e9
_ROUNDING = 1e-6


def check_shapes(frames: tuple[int, ...], positions: tuple[int, ...], field: str = "scan") -> tuple[int, int]:
    """Return M and N of a scan whose frames and positions have these shapes.

    Raises:
        InvalidArgumentError: Not (M, N, N) and (M, 2), or M or N is out of range.
    """
    if len(frames) != _FRAME_AXES or frames[1] != frames[2]:
        raise InvalidArgumentError(f"frames have shape {list(frames)}; (M, N, N) is needed", field=f"{field}.amplitudes")
    count, size = frames[0], frames[1]
    if not MIN_SIZE <= size <= MAX_SIZE or size % 2:
        message = f"frames of {size} x {size} pixels; an even number from {MIN_SIZE} to {MAX_SIZE} is needed"
        raise InvalidArgumentError(message, field=f"{field}.amplitudes")
    if len(positions) != _PAIR or positions[1] != _PAIR:
        raise InvalidArgumentError(f"positions have shape {list(positions)}; (M, 2) is needed", field=f"{field}.positions")
    if positions[0] != count:
        raise InvalidArgumentError(f"{count} frames but {positions[0]} positions; each frame needs its own", field=f"{field}.positions")
    if count < MIN_FRAMES:
        raise InvalidArgumentError(f"{count} frames; at least {MIN_FRAMES} that overlap are needed", field=f"{field}.positions")
    return count, size


def check_frames(amplitudes: Array, field: str = "scan.amplitudes", *, first: int = 0) -> None:
    """Check the values of some frames.

    Args:
        amplitudes: Floats or integers, (k, N, N); amplitudes or counts.
        field: Path of the request field, for errors.
        first: Number of the first of them in the scan, for errors.

    Raises:
        InvalidArgumentError: NaN, infinity, a value below 0, or a frame without a count.
    """
    with np.errstate(invalid="ignore"):  # of infinity less infinity
        totals = amplitudes.sum(axis=(1, 2), dtype=np.float64)
    if not np.isfinite(totals).all():
        frame = first + int(np.flatnonzero(~np.isfinite(totals))[0])
        raise InvalidArgumentError(f"there is NaN or infinity in frame {frame}; mask such pixels with 0", field=field)
    lowest = amplitudes.min(axis=(1, 2))
    if (lowest < 0).any():
        frame = int(np.flatnonzero(lowest < 0)[0])
        message = f"frame {first + frame} holds {lowest[frame]:g}; neither counts nor amplitudes are below 0: mask such pixels with 0"
        raise InvalidArgumentError(message, field=field)
    if (totals == 0).any():
        frame = first + int(np.flatnonzero(totals == 0)[0])
        raise InvalidArgumentError(f"frame {frame} holds no counts at all; leave it and its position out", field=field)


def check_amplitudes_not_counts(amplitudes: Array, field: str = "scan.amplitudes") -> None:
    """Raise InvalidArgumentError if all values are whole numbers and some are 2 or 3, which are counts: square roots of counts are not."""
    part = amplitudes[:_SAMPLES]
    if np.isin(part, (2, 3)).any() and (part == np.floor(part)).all():
        message = f"all values are whole numbers up to {part.max():g}: these are counts, but amplitudes are needed, their square roots"
        raise InvalidArgumentError(message, field=field)


def check_counts(counts: Array, field: str = "scan.counts") -> None:
    """Check the values of all frames where counts are needed.

    Raises:
        InvalidArgumentError: As `check_frames`, or the values are the square roots of whole numbers: amplitudes.
    """
    check_frames(counts, field)
    part = counts[:_SAMPLES].astype(np.float64)
    squares = part**2
    if (part != np.floor(part)).any() and (np.abs(squares - np.round(squares)) <= _ROUNDING * np.maximum(squares, 1)).all():
        message = "all values are square roots of whole numbers: these are amplitudes, but this layout holds counts, their squares"
        raise InvalidArgumentError(message, field=field)


def check_finite_positions(positions: NDArray[np.floating], field: str = "scan.positions", *, first: int = 0) -> None:
    """Raise InvalidArgumentError if one of some positions (k, 2) is NaN or infinite; the first is number `first` in the scan."""
    wrong = np.flatnonzero(~(np.abs(positions) <= _FAR).all(axis=1))
    if wrong.size:
        x, y = positions[wrong[0]]
        raise InvalidArgumentError(f"position {first + int(wrong[0])} is ({x:g}, {y:g}); pixels up to {_FAR:g} are possible", field=field)


def check_positions(positions: NDArray[np.floating], size: int, field: str = "scan") -> None:
    """Check all positions of a scan.

    Args:
        positions: (M, 2), pixels.
        size: N.
        field: Path of the request field of the scan, for errors.

    Raises:
        InvalidArgumentError: Fewer than 2, NaN or infinity, all equal, not in pixels as far as one can tell, or one that lies apart from
            all others.
    """
    field = f"{field}.positions"
    if len(positions) < MIN_FRAMES:
        raise InvalidArgumentError(f"{len(positions)} positions; at least {MIN_FRAMES} are needed", field=field)
    check_finite_positions(positions, field)
    span = float(np.ptp(positions, axis=0).max())
    if span == 0:
        raise InvalidArgumentError(f"all {len(positions)} positions are equal; a scan moves between its frames", field=field)
    if span < 1:
        message = f"positions span {span:.3g}; pixels are needed: divide metres or micrometres by the size of a pixel in the object's plane"
        raise InvalidArgumentError(message, field=field)
    distance = neighbour_distance(positions)
    if distance >= size:
        message = (
            f"neighbouring positions are {distance:.4g} apart (median), but frames have {size} pixels and must overlap; are these pixels? "
            "Divide by the size of a pixel in the object's plane"
        )
        raise InvalidArgumentError(message, field=field)
    lonely = _lonely(positions, size)
    if lonely.size:
        x, y = positions[lonely[0]]
        message = f"position {int(lonely[0])} ({x:g}, {y:g}) overlaps with no other ({lonely.size} do not): leave them out"
        raise InvalidArgumentError(message, field=field)
    check_span(positions, size, field)


def check_span(positions: NDArray[np.floating], size: int, field: str = "positions") -> None:
    """Raise InvalidArgumentError if frames of `size` pixels at positions (k, 2) need an object of more than `MAX_SIDE` pixels a side."""
    span = float(np.ptp(positions, axis=0).max())
    if not span + size <= MAX_SIDE:
        raise InvalidArgumentError(f"positions span {span:.6g} pixels; at most {MAX_SIDE - size} are possible", field=field)


def check_probe_shape(shape: tuple[int, ...], size: int, field: str = "scan") -> None:
    """Raise InvalidArgumentError unless a probe of this shape fits frames of `size` x `size` pixels: (modes, N, N), not too many modes."""
    field = f"{field}.probe"
    if len(shape) != _FRAME_AXES or not 1 <= shape[0] <= MAX_MODES:
        raise InvalidArgumentError(f"the probe has shape {list(shape)}; (modes, N, N) is needed, 1 to {MAX_MODES} modes", field=field)
    if shape[1:] != (size, size):
        message = f"the probe has {shape[2]} x {shape[1]} pixels, but the frames {size} x {size}; they must be equal"
        raise InvalidArgumentError(message, field=field)


def check_probe(probe: NDArray[np.complexfloating], size: int, field: str = "scan") -> None:
    """Check a probe (modes, N, N).

    Raises:
        InvalidArgumentError: See `check_probe_shape`; NaN or infinity, or 0 everywhere.
    """
    check_probe_shape(probe.shape, size, field)
    field = f"{field}.probe"
    if not np.isfinite(probe).all():
        raise InvalidArgumentError("there is NaN or infinity in the probe", field=field)
    if not probe.any():
        raise InvalidArgumentError("the probe is 0 everywhere", field=field)


def check_scan(scan: Scan, field: str = "scan", *, trust_positions: bool = False) -> None:
    """Check a scan in memory in every way there is.

    Args:
        scan: The scan.
        field: Path of the request field, for errors.
        trust_positions: Do not ask whether the frames fit the positions better with swapped or mirrored axes.

    Raises:
        InvalidArgumentError: It cannot be reconstructed as it is; the message says what is wrong and what would be right.
    """
    check_shapes(scan.amplitudes.shape, scan.positions.shape, field)
    check_positions(scan.positions, scan.size, field)
    check_frames(scan.amplitudes, f"{field}.amplitudes")
    check_amplitudes_not_counts(scan.amplitudes, f"{field}.amplitudes")
    check_centred(scan.amplitudes, f"{field}.amplitudes")
    if scan.truth is not None:
        check_truth(scan.truth, scan.positions, field)
    if scan.probe is not None:
        check_probe(scan.probe, scan.size, field)
        if not trust_positions:
            check_axes(scan.amplitudes, scan.positions, scan.probe, field)


def check_truth(truth: NDArray[np.complexfloating], positions: NDArray[np.floating], field: str = "scan") -> None:
    """Check the object (rows, columns) of a scan of which it is known.

    Raises:
        InvalidArgumentError: NaN or infinity, or positions (pixels of it) outside of it.
    """
    if not np.isfinite(truth).all():
        raise InvalidArgumentError("there is NaN or infinity in the object", field=f"{field}.truth")
    rows, columns = truth.shape
    outside = np.flatnonzero(((positions < 0) | (positions > (columns - 1, rows - 1))).any(axis=1))
    if outside.size:
        x, y = positions[outside[0]]
        message = (
            f"position {int(outside[0])} ({x:g}, {y:g}) lies outside of the object, which has {columns} columns and {rows} rows, as do "
            f"{outside.size} of {len(positions)}; positions are (x, y) in pixels of the object, from its upper left one"
        )
        raise InvalidArgumentError(message, field=f"{field}.positions")


def neighbour_distance(positions: NDArray[np.floating]) -> float:
    """Return the median distance to the nearest other position, pixels, over at most 64 of them."""
    places = np.unique(positions, axis=0)
    if len(places) < MIN_FRAMES:
        return 0.0
    chosen = np.linspace(0, len(places) - 1, min(len(places), _SAMPLES)).astype(int)
    nearest = []
    for index in chosen:
        distances = np.hypot(*(places - places[index]).T)
        distances[index] = np.inf
        nearest.append(distances.min())
    return float(np.median(nearest))


def _lonely(positions: NDArray[np.floating], size: int) -> NDArray[np.int_]:
    """Return the numbers of the positions that no other is near: none in their cell of N x N pixels or the eight about it."""
    cells = np.floor((positions - positions.min(axis=0)) / size)
    occupied, cell_of, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    known = set(map(tuple, occupied.tolist()))
    around = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
    alone = [count == 1 for count in counts]
    for index in np.flatnonzero(alone):
        x, y = occupied[index]
        alone[index] = not any((x + dx, y + dy) in known for dx, dy in around)
    return np.flatnonzero(np.asarray(alone)[cell_of.reshape(-1)])
