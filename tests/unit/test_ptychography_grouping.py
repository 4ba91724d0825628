"""What networks are shown: scaled frames, and groups of neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.grouping import group, relative_offsets
from tessera.tasks.ptychography.normalisation import FRAMES, Normaliser


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 16, 16)).astype(np.float32)


def test_a_frame_of_mean_power_has_the_sum_of_squares_of_half_its_side() -> None:
    scaled = Normaliser.fit(frames(10)).apply(frames(10))
    assert scaled.dtype == np.float32
    assert np.square(scaled).sum(axis=(1, 2)).mean() == pytest.approx(8**2, rel=1e-5)


def test_a_stream_and_a_file_are_scaled_alike() -> None:
    scan = frames(FRAMES + 30)
    assert Normaliser.fit(scan) == Normaliser.fit(scan[:FRAMES])


@given(st.floats(1e-3, 1e3))
def test_brighter_frames_come_out_alike(factor: float) -> None:
    scan = frames(4)
    brighter = (scan * factor).astype(np.float32)
    assert np.allclose(Normaliser.fit(brighter).apply(brighter), Normaliser.fit(scan).apply(scan), rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_frames_that_cannot_be_scaled_are_refused(value: float) -> None:
    with pytest.raises(InvalidArgumentError, match="finite and above 0") as caught:
        Normaliser.fit(np.full((3, 16, 16), value), field="frames.counts")
    assert caught.value.field == "frames.counts"


@given(st.integers(0, 100), st.integers(1, 4), st.integers(4, 60))
def test_every_frame_leads_a_group_of_distinct_near_neighbours(seed: int, size: int, count: int) -> None:
    positions = np.random.default_rng(seed).random((count, 2)) * 100
    groups = group(positions, size, neighbours=5, seed=seed)
    assert groups.shape == (count, size)
    assert (groups[:, 0] == np.arange(count)).all()
    distances = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1))
    ranks = distances.argsort(axis=1).argsort(axis=1)
    for frame, members in enumerate(groups):
        assert len(set(members)) == size
        assert (ranks[frame, members] <= 5).all()


def test_the_same_seed_gives_the_same_groups_and_another_gives_others() -> None:
    positions = np.random.default_rng(1).random((50, 2)) * 100
    assert (group(positions, 4, seed=1) == group(positions, 4, seed=1)).all()
    assert (group(positions, 4, seed=1) != group(positions, 4, seed=2)).any()


def test_a_frame_recorded_twice_is_in_its_group_once() -> None:
    positions = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]], 2, axis=0)
    groups = group(positions, 4, neighbours=3)
    assert all(len(set(members)) == 4 for members in groups.tolist())


def test_fewer_frames_than_a_group_has_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="3 frames; a group needs 4"):
        group(np.zeros((3, 2)), 4)


def test_offsets_are_positions_about_the_mean_of_their_group() -> None:
    positions = np.array([[0.0, 0.0], [8.0, 2.0], [1.0, 7.0]])
    offsets = relative_offsets(positions, np.array([[0, 1], [2, 0]]))
    assert np.array_equal(offsets, [[[-4.0, -1.0], [4.0, 1.0]], [[0.5, 3.5], [-0.5, -3.5]]])
