"""Scans in files: our own form, numpy archives of two layouts, and HDF5.

What a file is, is told by its first bytes, never by its name: blobs in a store have none.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.files.archives import NpzReader, check_bytes, unpack_bzip2
from tessera.tasks.ptychography.files.hdf5 import Hdf5Reader
from tessera.tasks.ptychography.files.layouts import read_layout
from tessera.tasks.ptychography.files.stored import ScanReader, read_shape, write_scan
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.validation import check_scan

__all__ = ["MAX_BYTES", "ScanReader", "read_scan", "read_shape", "write_scan"]

MAX_BYTES = 4 << 30
"""Bytes of a scan that is read as a whole, unless the caller says otherwise."""

_LONGEST_MAGIC = 16


def read_scan(path: Path, *, field: str = "scan", max_bytes: int = MAX_BYTES, trust_positions: bool = False) -> Scan:
    """Return the scan of a file, checked.

    Args:
        path: Of our own form (`write_scan`), `.npz` or HDF5, each also compressed by bzip2; the guide to ptychography lists the layouts.
        field: Path of the request field that named it, for errors.
        max_bytes: Most that the file may hold, unpacked: a small file can claim to be huge. Reading takes several times that in memory.
        trust_positions: Do not ask whether the frames fit the positions better with swapped or mirrored axes.

    Returns:
        The scan in the form of the task, whatever the file's layout.

    Raises:
        InvalidArgumentError: It cannot be read, is none of these, or holds no valid scan; the message says why.
        ResourceExhaustedError: It holds more than `max_bytes`, or the disk is full.
        FailedPreconditionError: It is HDF5, and h5py is not installed.
    """
    if _begins(path, field).startswith(b"BZh"):
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder) / "scan"
            unpack_bzip2(path, unpacked, max_bytes, field)
            scan = _read(unpacked, field, max_bytes)
    else:
        scan = _read(path, field, max_bytes)
    check_scan(scan, field, trust_positions=trust_positions)
    return scan


def _read(path: Path, field: str, max_bytes: int) -> Scan:
    """Return the scan of a file that is not compressed as a whole, not checked."""
    magic = _begins(path, field)
    for begins, read in _READERS:
        if begins(magic):
            return read(path, field, max_bytes)
    raise InvalidArgumentError("this is no scan: neither .npz, HDF5 (.h5, .cxi) nor safetensors, nor one of them in .bz2", field=field)


def _begins(path: Path, field: str) -> bytes:
    """Return the first bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_MAGIC)
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}", field=field) from error


def _read_stored(path: Path, field: str, max_bytes: int) -> Scan:
    """Return a scan in our own form."""
    check_bytes(path.stat().st_size, max_bytes, field)
    with ScanReader(path, field) as reader:
        return Scan(reader.amplitudes(0, reader.frames), reader.positions, reader.probe, reader.truth)


def _read_npz(path: Path, field: str, max_bytes: int) -> Scan:
    """Return the scan of an .npz file."""
    with NpzReader(path, field, max_bytes) as file:
        return read_layout(file, field)


def _read_hdf5(path: Path, field: str, max_bytes: int) -> Scan:
    """Return the scan of an HDF5 file."""
    with Hdf5Reader(path, field, max_bytes) as file:
        return read_layout(file, field)


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[Path, str, int], Scan]], ...] = (
    (lambda magic: magic.startswith(b"PK"), _read_npz),
    (lambda magic: magic.startswith(b"\x89HDF\r\n\x1a\n"), _read_hdf5),
    (lambda magic: magic[8:9] == b"{", _read_stored),
)
