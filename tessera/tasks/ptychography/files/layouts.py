"""The layouts of scans in archives and HDF5 files, told by the names of their arrays.

- Amplitudes (PtychoPINN): `diffraction` or `diff3d`, (M, N, N) or the legacy (N, N, M), zero frequency in the centre; `xcoords` and
  `ycoords`, or pairs (x, y); `probeGuess`, `objectGuess`.
- Counts (tike): `data` (1, M, N, N), zero frequency at the corner; `scan` (1, M, 2), pairs (row, column); `probe`.
- CXI: `/entry_1/data_1/data` (M, N, N), counts, zero frequency in the centre; `/entry_1/data_1/translation` (M, 3), metres (Maia, Nature
  Methods 9, 854 (2012)).
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.centring import check_corner
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.validation import check_amplitudes_not_counts, check_counts, check_shapes

_FRAMES = ("diffraction", "diff3d")
_COLUMN_ROW = (("xcoords", "ycoords"), ("xcoords_start", "ycoords_start"))
_PAIRS = ("offsets", "coords", "positions")
_PROBES = ("probeGuess", "probe")
_TRUTHS = ("objectGuess", "ground_truth")
_TIKE = ("data", "scan")
_CXI_FRAMES = ("entry_1/data_1/data", "entry_1/instrument_1/detector_1/data")
_CXI_PLACES = (
    "entry_1/data_1/translation",
    "entry_1/sample_1/geometry_1/translation",
    "entry_1/instrument_1/detector_1/translation",
)
_CXI_PROBES = ("entry_1/instrument_1/source_1/illumination", "entry_1/instrument_1/source_1/probe")
_CXI_ENERGY, _CXI_DISTANCE = "entry_1/instrument_1/source_1/energy", "entry_1/instrument_1/detector_1/distance"
_CXI_PIXELS = ("entry_1/instrument_1/detector_1/x_pixel_size", "entry_1/instrument_1/detector_1/y_pixel_size")

NAMES = (
    *(*_FRAMES, *sum(_COLUMN_ROW, ()), *_PAIRS, *_PROBES, *_TRUTHS, "scan_index", *_TIKE),
    *(*_CXI_FRAMES, *_CXI_PLACES, *_CXI_PROBES, _CXI_ENERGY, _CXI_DISTANCE, *_CXI_PIXELS),
)
"""Every array that a layout knows."""

_FRAME_AXES, _PAIR, _SPACE = 3, 2, 3
_PLANCK_LIGHT = 6.62607015e-34 * 299792458
"""h c, joule metres: over the energy of a photon it is its wavelength."""


class Arrays(Protocol):
    """A file of named arrays, whose shapes are known before one of them is read."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every array by name."""

    def read(self, name: str) -> NDArray[Any]:
        """Return an array of numbers; InvalidArgumentError or ResourceExhaustedError if that cannot be."""


def read_layout(file: Arrays, field: str) -> Scan:
    """Return the scan that a file's arrays are, its values not checked.

    Raises:
        InvalidArgumentError: The file is damaged, of no known layout, or its arrays do not fit together.
        ResourceExhaustedError: An array is larger than it may be.
    """
    if _find(file, _FRAMES):
        return _read_amplitudes(file, field)
    if _find(file, _CXI_FRAMES):
        return _read_cxi(file, field)
    if all(name in file.shapes for name in _TIKE):
        return _read_tike(file, field)
    held = ", ".join(sorted(file.shapes)) or "none of their arrays"
    message = f"no known layout: {' or '.join(_FRAMES)}, {' and '.join(_TIKE)}, or {_CXI_FRAMES[0]} are needed; there is {held}"
    raise InvalidArgumentError(message, field=field)


def _read_amplitudes(file: Arrays, field: str) -> Scan:
    """Return a scan of amplitudes (M, N, N), or (N, N, M) in the legacy layout, with the positions x and y apart or as pairs (x, y)."""
    name, places = _find(file, _FRAMES) or "", _position_arrays(file, field)
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
    return Scan(np.ascontiguousarray(amplitudes, np.float32), positions, _probe(file, _PROBES, field), _truth(file))


def _position_arrays(file: Arrays, field: str) -> tuple[str, ...]:
    """Return the names of the arrays that hold the positions: of x and y, or of pairs."""
    for names in _COLUMN_ROW:
        if all(name in file.shapes for name in names):
            x, y = (file.shapes[name] for name in names)
            if x != y:
                message = f"{' and '.join(names)} have shapes {list(x)} and {list(y)}; they must be equal"
                raise InvalidArgumentError(message, field=field)
            return names
    name = _find(file, _PAIRS)
    if name is None:
        message = f"there are no positions: xcoords and ycoords, or one of {', '.join(_PAIRS)}, are needed"
        raise InvalidArgumentError(message, field=field)
    if [extent for extent in file.shapes[name] if extent != 1][1:] != [_PAIR]:
        raise InvalidArgumentError(f"{name} has shape {list(file.shapes[name])}; (M, 2) is needed, an (x, y) for each frame", field=field)
    return (name,)


def _read_tike(file: Arrays, field: str) -> Scan:
    """Return a scan of counts (1, M, N, N) with zero frequency at the corner and positions (1, M, 2) in the order (row, column)."""
    shape, places = _without_leading(file.shapes["data"], _FRAME_AXES), _without_leading(file.shapes["scan"], 2)
    check_shapes(shape, places, field)
    counts = _real(file.read("data"), "data", field).reshape(shape)
    check_counts(counts, f"{field}.data")
    check_corner(counts, f"{field}.data")
    amplitudes = np.fft.fftshift(np.sqrt(counts, dtype=np.float32), axes=(-2, -1))
    positions = _real(file.read("scan"), "scan", field).reshape(places).astype(np.float64)[:, ::-1]
    return Scan(amplitudes, np.ascontiguousarray(positions), _probe(file, _PROBES, field))


def _read_cxi(file: Arrays, field: str) -> Scan:
    """Return a scan of counts with positions in metres.

    The object's pixel is wavelength x distance / (N x the detector's pixel). A translation is the sample's, and rows and columns of a
    detector run against the axes y and x of CXI, so both signs cancel: (x, y) in pixels is the translation over the pixel's size.
    """
    name, places = _find(file, _CXI_FRAMES) or "", _find(file, _CXI_PLACES)
    missing = [each for each in (_CXI_ENERGY, _CXI_DISTANCE, *_CXI_PIXELS) if each not in file.shapes]
    if places is None or missing:
        needed = ", ".join(missing) or _CXI_PLACES[0]
        raise InvalidArgumentError(f"the CXI file lacks {needed}: without it positions cannot be told in pixels", field=field)
    shape, where = file.shapes[name], file.shapes[places]
    if len(where) != _PAIR or where[1] not in (_PAIR, _SPACE):
        raise InvalidArgumentError(f"{places} has shape {list(where)}; (M, 3) is needed", field=field)
    _, size = check_shapes(shape, (where[0], _PAIR), field)
    energy, distance, *pixels = (_positive(file, each, field) for each in (_CXI_ENERGY, _CXI_DISTANCE, *_CXI_PIXELS))
    pitch = np.array([_PLANCK_LIGHT / energy * distance / (size * pixel) for pixel in pixels])
    counts = _real(file.read(name), name, field)
    check_counts(counts, f"{field}.{name}")
    with np.errstate(all="ignore"):  # what is not finite then is named with its position
        positions = _real(file.read(places), places, field).astype(np.float64)[:, :_PAIR] / pitch
    return Scan(np.sqrt(counts, dtype=np.float32), positions, _probe(file, _CXI_PROBES, field))


def _positive(file: Arrays, name: str, field: str) -> float:
    """Return a number that must be above 0."""
    numbers = _real(file.read(name), name, field).reshape(-1)
    if numbers.size != 1 or not 0 < numbers[0] < math.inf:
        raise InvalidArgumentError(f"{name} is {numbers[:3].tolist()}; one number above 0 is needed", field=field)
    return float(numbers[0])


def _find(file: Arrays, names: Collection[str]) -> str | None:
    """Return the first of some names that the file has."""
    return next((name for name in names if name in file.shapes), None)


def _frames_first(shape: tuple[int, ...], count: int, name: str, field: str) -> tuple[tuple[int, ...], bool]:
    """Return the shape (M, N, N) of frames, and whether the frames' axis is the last one in the file."""
    if len(shape) == _FRAME_AXES + 1 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != _FRAME_AXES:
        raise InvalidArgumentError(f"{name} has shape {list(shape)}; (M, N, N) or (N, N, M) is needed", field=field)
    if shape[0] != count and shape[2] == count and shape[0] == shape[1]:
        return (shape[2], shape[0], shape[1]), True
    return shape, False


def _check_one_scan(file: Arrays, field: str) -> None:
    """Raise InvalidArgumentError if the frames are of several scans, that is of several objects."""
    if "scan_index" in file.shapes:
        numbers = np.unique(file.read("scan_index"))
        if numbers.size > 1:
            message = (
                f"scan_index names {numbers.size} scans ({', '.join(f'{number:g}' for number in numbers[:5])}); one file holds one scan"
            )
            raise InvalidArgumentError(message, field=field)


def _probe(file: Arrays, names: Collection[str], field: str) -> NDArray[np.complex64] | None:
    """Return the probe (modes, N, N), None if the file has none."""
    name = _find(file, names)
    if name is None:
        return None
    probe = file.read(name)
    if probe.ndim < 2 or not probe.size:
        raise InvalidArgumentError(f"{name} has shape {list(probe.shape)}; (N, N) or (modes, N, N) is needed", field=field)
    return np.ascontiguousarray(probe.reshape(-1, *probe.shape[-2:]), np.complex64)


def _truth(file: Arrays) -> NDArray[np.complex64] | None:
    """Return the object, None if the file has none."""
    name = _find(file, _TRUTHS)
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
