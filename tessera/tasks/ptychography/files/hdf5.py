"""Reads HDF5 files that nobody vouches for: named arrays, no larger than allowed, and nothing from outside of the file."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.tasks.ptychography.files.archives import check_bytes
from tessera.tasks.ptychography.files.layouts import NAMES

_MOST_PACKED = 1100
"""Times that deflate, the densest of the usual filters, can shorten bytes; HDF5 fills what was never written, as far as it is claimed."""


class Hdf5Reader:
    """Those arrays of an HDF5 file that a layout knows; a context manager.

    Args:
        path: The file.
        field: Path of the request field that named it, for errors.
        max_bytes: Most that they may hold together.

    Attributes:
        shapes: Shape of every array by name.

    Raises:
        InvalidArgumentError: It is no such file, is damaged, or an array lies in another file or is not there to its full length.
        ResourceExhaustedError: They hold more than `max_bytes`.
        FailedPreconditionError: h5py is not installed.
    """

    def __init__(self, path: Path, field: str, max_bytes: int) -> None:
        try:
            import h5py
        except ImportError as error:
            message = "h5py is missing; install what reads HDF5 with `pip install 'tessera[ptychography]'`"
            raise FailedPreconditionError(message, field=field) from error
        self._field = field
        try:
            self._file = h5py.File(path, "r")
            found = {name: self._file[name] for name in NAMES if name in self._file}
            self._datasets = {name: item for name, item in found.items() if isinstance(item, h5py.Dataset)}
            for name, dataset in self._datasets.items():
                self._check(name, dataset)
        # h5py says ValueError and TypeError for element types that numpy has not, and the others for bytes that are missing or wrong.
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InvalidArgumentError(f"the HDF5 file is damaged or ends too early: {error}", field=field) from error
        self.shapes: dict[str, tuple[int, ...]] = {name: dataset.shape for name, dataset in self._datasets.items()}
        check_bytes(sum(_claimed(dataset) for dataset in self._datasets.values()), max_bytes, field)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[Any]:
        """Return an array; InvalidArgumentError if it holds no numbers, or is damaged."""
        dataset = self._datasets[name]
        if dataset.dtype.kind not in "biufc":
            raise InvalidArgumentError(f"{name} has the element type {dataset.dtype}; numbers are needed", field=self._field)
        try:
            return np.asarray(dataset[()])
        except (OSError, RuntimeError) as error:
            raise InvalidArgumentError(f"{name} is damaged or ends too early: {error}", field=self._field) from error

    def _check(self, name: str, dataset: Any) -> None:
        """Raise InvalidArgumentError unless all of an array can be in this file."""
        # A file could name any other on this machine, and have it read.
        if dataset.file.id != self._file.id or dataset.external or dataset.is_virtual:
            raise InvalidArgumentError(f"{name} lies in another file; copy it into this one (h5repack)", field=self._field)
        stored = dataset.id.get_storage_size()
        if dataset.shape is None or _claimed(dataset) > stored * _MOST_PACKED:
            message = f"{name} claims {list(dataset.shape or ())} elements of {dataset.dtype}, but the file holds {stored} bytes for it"
            raise InvalidArgumentError(message, field=self._field)


def _claimed(dataset: Any) -> int:
    """Return the bytes that an array would take in memory, or one of its chunks, which is unpacked as a whole however little it holds."""
    return int(max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,))) * dataset.dtype.itemsize)
