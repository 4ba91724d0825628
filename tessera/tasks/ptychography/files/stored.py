"""Scans in our own form, which is written and read a few frames at a time: a safetensors file.

Its tensors: `amplitudes` FP32 (M, N, N), `positions` FP64 (M, 2); where they are known, `probe` FP32 (modes, 2, N, N) and `truth` FP32
(2, rows, columns), real and imaginary part. What they mean is in the package's docstring.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tessera.blob_files import disk_errors
from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.signatures import from_channels, to_channels
from tessera.tasks.ptychography.validation import check_positions, check_probe, check_probe_shape, check_shapes
from tessera.tensors import check_finite

_TYPES = {"amplitudes": "F32", "positions": "F64", "probe": "F32", "truth": "F32"}
_REQUIRED = ("amplitudes", "positions")
_CHANNELS = 2
_PROBE_AXES, _TRUTH_AXES = 4, 3


def write_scan(path: Path, scan: Scan) -> None:
    """Write a scan in our own form; ResourceExhaustedError if the disk is full."""
    tensors: dict[str, NDArray[Any]] = {
        "amplitudes": np.ascontiguousarray(scan.amplitudes, np.float32),
        "positions": np.ascontiguousarray(scan.positions, np.float64),
    }
    if scan.probe is not None:
        tensors["probe"] = to_channels(scan.probe)
    if scan.truth is not None:
        tensors["truth"] = to_channels(scan.truth)
    with disk_errors():
        save_file(tensors, path)


class ScanReader:
    """A scan in our own form, of which no more is in memory than was asked for; a context manager.

    Args:
        path: The file, which must not change meanwhile.
        field: Path of the request field that named it, for errors.

    Attributes:
        frames: M.
        size: N, pixels.
        positions: float64, (M, 2), checked.
        probe: complex64, (modes, N, N), or None.
        truth: complex64, (rows, columns), or None.

    Raises:
        InvalidArgumentError: It is no such file, or what it holds cannot be a scan.
    """

    def __init__(self, path: Path, field: str = "scan") -> None:
        self._file, self._slices = _open(path, field)
        self.frames, self.size = _check_header(self._slices, field)
        self.positions: NDArray[np.float64] = self._file.get_tensor("positions")
        check_positions(self.positions, self.size, field)
        self.probe = self._complex("probe", field)
        if self.probe is not None:
            check_probe(self.probe, self.size, field)
        self.truth = self._complex("truth", field)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._slices.clear()
        del self._file

    def amplitudes(self, first: int, last: int) -> NDArray[np.float32]:
        """Return the frames from `first` to before `last`, or to the end, (k, N, N); their values are not checked."""
        part: NDArray[np.float32] = self._slices["amplitudes"][first : min(last, self.frames)]
        return part

    def _complex(self, name: str, field: str) -> NDArray[np.complex64] | None:
        """Return a tensor of real and imaginary parts as a complex one, None if there is none; InvalidArgumentError for NaN or infinity."""
        if name not in self._slices:
            return None
        channels = self._file.get_tensor(name)
        check_finite(channels, f"{field}.{name}")
        return from_channels(channels)


def read_shape(path: Path, field: str = "scan") -> tuple[int, int]:
    """Return M and N of a scan in our own form from the header of its file alone.

    Raises:
        InvalidArgumentError: It is no such file, or what its header describes cannot be a scan.
    """
    return _check_header(_open(path, field)[1], field)


def _open(path: Path, field: str) -> tuple[Any, dict[str, Any]]:
    """Open a safetensors file and return what reads each tensor of it; InvalidArgumentError if it is none."""
    try:
        file: Any = safe_open(path, framework="numpy")
        return file, {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise InvalidArgumentError(f"this is not a safetensors file: {error}", field=field) from error


def _check_header(slices: dict[str, Any], field: str) -> tuple[int, int]:
    """Return M and N; InvalidArgumentError if a tensor is missing, has another type, or a shape that is none of a scan."""
    missing = [name for name in _REQUIRED if name not in slices]
    if missing:
        held = ", ".join(sorted(slices)) or "nothing"
        raise InvalidArgumentError(f"a scan needs {' and '.join(_REQUIRED)}; this file holds {held}", field=field)
    for name, part in slices.items():
        if name not in _TYPES:
            raise InvalidArgumentError.unknown("tensor of a scan", name, _TYPES, field=field)
        if part.get_dtype() != _TYPES[name]:
            message = f"{name} has the element type {part.get_dtype()}; {_TYPES[name]} is needed"
            raise InvalidArgumentError(message, field=f"{field}.{name}")
    frames, positions = (tuple(slices[name].get_shape()) for name in _REQUIRED)
    count, size = check_shapes(frames, positions, field)
    _check_channels(slices, "truth", _TRUTH_AXES, field)
    _check_channels(slices, "probe", _PROBE_AXES, field)
    if "probe" in slices:
        modes, _, rows, columns = slices["probe"].get_shape()
        check_probe_shape((modes, rows, columns), size, field)
    return count, size


def _check_channels(slices: dict[str, Any], name: str, axes: int, field: str) -> None:
    """Raise InvalidArgumentError if a tensor is there, but is none of real and imaginary parts with so many axes."""
    shape = slices[name].get_shape() if name in slices else None
    if shape is not None and (len(shape) != axes or shape[-3] != _CHANNELS or 0 in shape):
        message = f"{name} has shape {list(shape)}; {axes} axes are needed, the third last of them real and imaginary part"
        raise InvalidArgumentError(message, field=f"{field}.{name}")
