"""Reads HDF5 files that nobody vouches for: named arrays, no larger than allowed, and nothing from outside of the file."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.files.archives import check_bytes
from tessera.tasks.ptychography.files.layouts import NAMES


class Hdf5Reader:
    """Those arrays of an HDF5 file that a layout knows; a context manager.

    Args:
        path: The file.
        field: Path of the request field that named it, for errors.
        max_bytes: Most that one array may hold.

    Attributes:
        shapes: Shape of every array by name.

    Raises:
        InvalidArgumentError: It is no such file, is damaged, or an array lies in another file.
    """

    def __init__(self, path: Path, field: str, max_bytes: int) -> None:
        import h5py

        self._field, self._max_bytes = field, max_bytes
        try:
            self._file = h5py.File(path, "r")
            found = {name: self._file[name] for name in NAMES if name in self._file}
        except (OSError, KeyError, RuntimeError) as error:
            raise InvalidArgumentError(f"the HDF5 file is damaged or ends too early: {error}", field=field) from error
        self._datasets = {name: item for name, item in found.items() if isinstance(item, h5py.Dataset)}
        for name, dataset in self._datasets.items():
            # A file could name any other on this machine, and have it read.
            if dataset.file.id != self._file.id or dataset.external or dataset.is_virtual:
                raise InvalidArgumentError(f"{name} lies in another file; copy it into this one (h5repack)", field=field)
        self.shapes: dict[str, tuple[int, ...]] = {
            name: dataset.shape for name, dataset in self._datasets.items() if dataset.shape is not None
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[Any]:
        """Return an array.

        Raises:
            InvalidArgumentError: It holds no numbers, or is damaged.
            ResourceExhaustedError: It is larger than it may be.
        """
        dataset = self._datasets[name]
        if dataset.dtype.kind not in "biufc":
            raise InvalidArgumentError(f"{name} has the element type {dataset.dtype}; numbers are needed", field=self._field)
        check_bytes(math.prod(dataset.shape) * dataset.dtype.itemsize, self._max_bytes, self._field)
        try:
            return np.asarray(dataset[()])
        except (OSError, RuntimeError) as error:
            raise InvalidArgumentError(f"{name} is damaged or ends too early: {error}", field=self._field) from error
