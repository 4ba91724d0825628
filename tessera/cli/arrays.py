"""Arrays in files and on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.cli.options import pairs
from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.tensors import Array

MOST_SHOWN = 6


def load_array(path: Path) -> "Array":
    """Return the array of a file; InvalidArgumentError if it is none. Pickled objects are refused."""
    from numpy.lib.format import read_array

    try:
        with path.open("rb") as file:
            return read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"{path}: this is not an array of numpy (.npy): {error}") from error


def load_arrays(files: Sequence[str]) -> "dict[str, Array]":
    """Return named arrays of `NAME=FILE.npy` and of `FILE.npz`. Raises InvalidArgumentError for a file of another kind, or a name twice."""
    named = pairs([file for file in files if not file.endswith(".npz")], "input", "NAME=FILE.npy")
    arrays = {name: load_array(Path(path)) for name, path in named.items()}
    for file in files:
        if file.endswith(".npz"):
            found = _load_npz(Path(file))
            if twice := sorted(arrays.keys() & found.keys()):
                raise InvalidArgumentError(f"{file}: the input {twice[0]} is given twice")
            arrays |= found
    return arrays


def save_arrays(path: Path, arrays: "Mapping[str, Array]") -> None:
    """Write arrays to a .npz file, or the only one to a .npy file. Raises InvalidArgumentError if the file cannot be written."""
    import numpy as np

    texts = {name: array.astype(str) if array.dtype == np.object_ else array for name, array in arrays.items()}
    try:
        if path.suffix != ".npy":
            np.savez(path, allow_pickle=False, **texts)
        elif len(texts) == 1:
            np.save(path, next(iter(texts.values())), allow_pickle=False)
        else:
            raise InvalidArgumentError(f"{path}: there are {len(texts)} outputs; a .npy file holds one, a .npz file all")
    except OSError as error:
        raise InvalidArgumentError(f"{path}: cannot write the file: {error.strerror}") from error


def shown(array: "Array") -> str:
    """Return the first values of an array."""
    values = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in array.ravel()[:MOST_SHOWN].tolist())
    return values if array.size <= MOST_SHOWN else f"{values}, ..."


def _load_npz(path: Path) -> "dict[str, Array]":
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise InvalidArgumentError(f"{path}: this is not a file of arrays (.npz): {error}") from error
