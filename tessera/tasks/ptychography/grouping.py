"""Groups of neighbours: what a network that looks at several frames at once is shown."""

import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidArgumentError

NEIGHBOURS = 6
"""K: the nearest frames that the other members of a group are drawn from."""


def group(positions: NDArray[np.floating], size: int, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> NDArray[np.int64]:
    """Return a group for every frame: itself, then others drawn without repetition from its K nearest neighbours.

    Args:
        positions: (M, 2), (x, y), pixels.
        size: C, frames of a group, 1 or more.
        neighbours: K; at least C - 1 are taken, and never more than there are.
        seed: Of what is drawn; the same seed gives the same groups.

    Returns:
        Indices of frames, int64, (M, C); frame i is the first of group i, so every frame is in at least one.

    Raises:
        InvalidArgumentError: Fewer frames than a group has.
    """
    count = len(positions)
    if count < size:
        raise InvalidArgumentError(f"{count} frames; a group needs {size}", field="positions")
    own = np.arange(count, dtype=np.int64)[:, None]
    if size == 1:
        return own
    from scipy.spatial import KDTree

    near = min(max(neighbours, size - 1), count - 1)
    found: NDArray[np.int64] = KDTree(positions).query(positions, k=near + 1)[1]
    # A frame is its own nearest neighbour, but one recorded at the very same place may come first.
    found = np.where(found == own, found[:, :1], found)[:, 1:]
    drawn = np.random.default_rng(seed).random(found.shape).argsort(axis=1)[:, : size - 1]
    return np.concatenate([own, np.take_along_axis(found, drawn, axis=1)], axis=1)


def relative_offsets(positions: NDArray[np.floating], groups: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return where the members of each group lie in its common canvas: position - mean of the group, (groups, C, 2), (x, y), pixels.

    This is what a reassembly translates patches by. PtychoPINN writes offsets the other way round, as -(position - mean), since it
    translates the canvas and not the patch.
    """
    members = np.asarray(positions, np.float64)[groups]
    offsets: NDArray[np.float64] = members - members.mean(axis=1, keepdims=True)
    return offsets
