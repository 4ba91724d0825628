"""The layouts of numpy archives: that of PtychoPINN (facts: amplitudes, zero frequency in the centre) and that of tike (counts, corner)."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.files.archives import NpzReader
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.validation import check_amplitudes_not_counts, check_counts, check_shapes

_FRAMES = ("diffraction", "diff3d")
_COLUMN_ROW = (("xcoords", "ycoords"), ("xcoords_start", "ycoords_start"))
_PAIRS = ("offsets", "coords", "positions")
_PROBES = ("probeGuess", "probe")
_TRUTHS = ("objectGuess", "ground_truth")
_TIKE = ("data", "scan")
_FRAME_AXES = 3


def read_npz(path: Path, field: str, max_bytes: int) -> Scan:
    """Return the scan of an .npz file.

    Raises:
        InvalidArgumentError: It is damaged, of no known layout, or its arrays do not fit together.
        ResourceExhaustedError: It holds more than `max_bytes`.
    """
    with NpzReader(path, field, max_bytes) as file:
        if file.find(_FRAMES):
            return _read_amplitudes(file, field)
        if all(name in file.shapes for name in _TIKE):
            return _read_tike(file, field)
        held = ", ".join(sorted(file.shapes)) or "nothing"
        message = (
            f"no known layout: {' or '.join(_FRAMES)} beside xcoords and ycoords, or {' and '.join(_TIKE)}, are needed; there is {held}"
        )
        raise InvalidArgumentError(message, field=field)


def _read_amplitudes(file: NpzReader, field: str) -> Scan:
    """Return a scan of amplitudes (M, N, N), or (N, N, M) in the legacy layout, with the positions x and y apart or as pairs (x, y)."""
    name, places = file.find(_FRAMES) or "", _position_arrays(file, field)
    # Shapes first: whoever claims 1e9 positions for 2 frames is refused before anything is read.
    count = sum(math.prod(file.shapes[each]) for each in places) // 2
    frames, legacy = _frames_first(file.shapes[name], count, name, field)
    check_shapes(frames, (count, 2), field)
    _check_one_scan(file, field)
    parts = [_real(file.read(each), each, field).astype(np.float64) for each in places]
    positions = parts[0].reshape(-1, 2) if len(parts) == 1 else np.stack([part.reshape(-1) for part in parts], axis=1)
    amplitudes = _real(file.read(name), name, field)
    amplitudes = np.moveaxis(amplitudes, -1, 0) if legacy else amplitudes.reshape(frames)
    check_amplitudes_not_counts(amplitudes, f"{field}.{name}")
    return Scan(np.ascontiguousarray(amplitudes, np.float32), positions, _probe(file, field), _truth(file))


def _position_arrays(file: NpzReader, field: str) -> tuple[str, ...]:
    """Return the names of the arrays that hold the positions: of x and y, or of pairs."""
    for names in _COLUMN_ROW:
        if all(name in file.shapes for name in names):
            x, y = (file.shapes[name] for name in names)
            if x != y:
                message = f"{' and '.join(names)} have shapes {list(x)} and {list(y)}; they must be equal"
                raise InvalidArgumentError(message, field=field)
            return names
    name = file.find(_PAIRS)
    if name is None:
        message = f"there are no positions: xcoords and ycoords, or one of {', '.join(_PAIRS)}, are needed"
        raise InvalidArgumentError(message, field=field)
    return (name,)


def _read_tike(file: NpzReader, field: str) -> Scan:
    """Return a scan of counts (1, M, N, N) with zero frequency at the corner and positions (1, M, 2) in the order (row, column)."""
    shape, places = _without_leading(file.shapes["data"], _FRAME_AXES), _without_leading(file.shapes["scan"], 2)
    check_shapes(shape, places, field)
    counts = _real(file.read("data"), "data", field).reshape(shape)
    check_counts(counts, f"{field}.data")
    amplitudes = np.fft.fftshift(np.sqrt(counts, dtype=np.float32), axes=(-2, -1))
    positions = _real(file.read("scan"), "scan", field).reshape(places).astype(np.float64)[:, ::-1]
    return Scan(amplitudes, np.ascontiguousarray(positions), _probe(file, field))


def _frames_first(shape: tuple[int, ...], count: int, name: str, field: str) -> tuple[tuple[int, ...], bool]:
    """Return the shape (M, N, N) of frames, and whether the frames' axis is the last one in the file."""
    if len(shape) == _FRAME_AXES + 1 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != _FRAME_AXES:
        raise InvalidArgumentError(f"{name} has shape {list(shape)}; (M, N, N) or (N, N, M) is needed", field=field)
    if shape[0] != count and shape[2] == count and shape[0] == shape[1]:
        return (shape[2], shape[0], shape[1]), True
    return shape, False


def _check_one_scan(file: NpzReader, field: str) -> None:
    """Raise InvalidArgumentError if the frames are of several scans, that is of several objects."""
    if "scan_index" in file.shapes:
        numbers = np.unique(file.read("scan_index"))
        if numbers.size > 1:
            message = (
                f"scan_index names {numbers.size} scans ({', '.join(f'{number:g}' for number in numbers[:5])}); one file holds one scan"
            )
            raise InvalidArgumentError(message, field=field)


def _probe(file: NpzReader, field: str) -> NDArray[np.complex64] | None:
    """Return the probe (modes, N, N), None if the file has none."""
    name = file.find(_PROBES)
    if name is None:
        return None
    probe = file.read(name)
    if probe.ndim < 2:
        raise InvalidArgumentError(f"{name} has shape {list(probe.shape)}; (N, N) or (modes, N, N) is needed", field=field)
    return np.ascontiguousarray(probe.reshape(-1, *probe.shape[-2:]), np.complex64)


def _truth(file: NpzReader) -> NDArray[np.complex64] | None:
    """Return the object, None if the file has none."""
    name = file.find(_TRUTHS)
    if name is None or len(_without_leading(file.shapes[name], 2)) != 2:
        return None
    truth = file.read(name)
    return np.ascontiguousarray(truth.reshape(truth.shape[-2:]), np.complex64)


def _without_leading(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Return a shape without axes of one element in front of its last `axes`."""
    extra = len(shape) - axes
    return shape[extra:] if extra > 0 and all(extent == 1 for extent in shape[:extra]) else shape


def _real(array: NDArray[Any], name: str, field: str) -> NDArray[Any]:
    """Return an array of real numbers; InvalidArgumentError for a complex one."""
    if np.iscomplexobj(array):
        raise InvalidArgumentError(f"{name} is complex; real numbers are needed", field=field)
    return array
