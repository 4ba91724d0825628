"""A canvas that takes patches as they come holds what a reassembly of all of them makes, in memory that does not grow with their number."""

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError
from tessera.tasks.ptychography.canvas import Canvas
from tessera.tasks.ptychography.patches import MAX_SIDE
from tessera.tasks.ptychography.reassembly import probe_weights, reassemble
from tests.fixtures.patches import gaussian_probe, random_offsets, random_patches


def on_the_grid_of(canvas, side, mean):
    """What the canvas holds, as a square of `side` pixels whose centre is the mean of the positions."""
    found, weight = np.zeros((side, side), np.complex64), np.zeros((side, side), np.float32)
    x, y = np.subtract(canvas.corner, mean).astype(int) + side // 2
    here = slice(y, y + canvas.weight.shape[0]), slice(x, x + canvas.weight.shape[1])
    found[here], weight[here] = canvas.object(), canvas.weight
    return found, weight


@settings(max_examples=25)
@given(
    count=st.integers(1, 40),
    crop=st.integers(1, 8),
    pieces=st.integers(1, 9),
    mean=st.tuples(st.integers(-3000, 3000), st.integers(-3000, 3000)),
    lit=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_stream_makes_the_object_that_all_patches_at_once_make(count, crop, pieces, mean, lit, seed):
    patches, positions = random_patches(count, 8, seed), random_offsets(count, 30, seed)
    positions += mean - positions.mean(axis=0)
    weights = probe_weights(gaussian_probe(8)) if lit else None
    canvas = Canvas(8, crop, weights)
    for piece in np.array_split(np.arange(count), pieces):
        canvas.add(patches[piece], positions[piece])
    expected, weight = reassemble(patches, positions, crop, weights=weights, dtype=np.complex128)
    found, found_weight = on_the_grid_of(canvas, len(expected), mean)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found_weight - weight).max() < 1e-5


def test_an_object_comes_back_in_the_coordinates_of_its_positions():
    world = random_patches(1, 50)[0]
    positions = np.array([(x, y) for x in range(8, 43, 5) for y in range(8, 43, 7)], float)
    canvas = Canvas(16, 16)
    canvas.add(np.stack([world[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8] for x, y in positions]), positions)
    x, y = canvas.corner
    rows, columns = canvas.weight.shape
    assert (x, y) == (0, 0)
    assert np.abs(canvas.object() - world[y : y + rows, x : x + columns]).max() < 1e-5


def test_the_object_can_be_looked_at_while_it_grows():
    canvas = Canvas(8, 6)
    canvas.add(random_patches(1, 8), np.array([[4.0, 4.0]]))
    first = canvas.object()
    assert first.shape == (6, 6)
    assert first.dtype == np.complex64
    canvas.add(random_patches(1, 8, seed=1), np.array([[-10.5, 20.0]]))
    assert canvas.corner == (-14, 1)
    assert canvas.object().shape == (22, 21)
    assert np.array_equal(canvas.object()[:6, -6:], first)
    canvas.add(np.zeros((0, 8, 8), np.complex64), np.zeros((0, 2)))
    assert canvas.object().shape == (22, 21)


def test_a_million_patches_stream_through_in_bounded_memory():
    random = np.random.default_rng(0)
    canvas = Canvas(4, 4)
    patches = np.full((20_000, 4, 4), 1 + 2j, np.complex64)
    canvas.add(patches, random.uniform(0, 300, (20_000, 2)))
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(49):
        canvas.add(patches.copy(), random.uniform(0, 300, (20_000, 2)))
    # The patches have 122 MiB, and their positions 15 MiB.
    assert process.memory_info().rss - before < 60 << 20
    assert canvas.weight.sum(dtype=np.float64) == pytest.approx(1e6 * 16, rel=1e-3)
    assert np.abs(canvas.object() - (1 + 2j))[canvas.weight > 0.1].max() < 1e-4


def test_a_canvas_that_would_be_too_large_is_refused_and_stays_as_it_was():
    canvas = Canvas(8, 8)
    canvas.add(random_patches(1, 8), np.array([[0.0, 0.0]]))
    before = canvas.object()
    for far in ([MAX_SIDE - 7.0, 0.0], [0.0, -MAX_SIDE + 7.5], [1e8, 1e8]):
        with pytest.raises(ResourceExhaustedError, match=f"more than {MAX_SIDE}"):
            canvas.add(random_patches(2, 8), np.array([[1.0, 1.0], far]))
    assert np.array_equal(canvas.object(), before)
    canvas.add(random_patches(1, 8), np.array([[MAX_SIDE - 8.0, 0.0]]))
    assert canvas.object().shape == (8, MAX_SIDE)


@pytest.mark.parametrize(
    ("patches", "positions", "field"),
    [
        (np.ones((1, 9, 9)), np.zeros((1, 2)), "patches"),
        (np.ones((8, 8)), np.zeros((8, 2)), "patches"),
        (np.ones((1, 8, 8)), np.zeros((2, 2)), "offsets"),
        (np.ones((1, 8, 8)), np.array([[np.nan, 0]]), "offsets"),
        (np.ones((1, 8, 8)), np.array([[0, 1e300]]), "offsets"),
    ],
)
def test_patches_and_positions_that_do_not_fit_are_refused_by_name(patches, positions, field):
    with pytest.raises(InvalidArgumentError) as error:
        Canvas(8, 6).add(patches.astype(np.complex64), positions)
    assert error.value.field == field


def test_a_canvas_knows_what_can_never_fit():
    for crop, weights, field in ((9, None, "crop"), (6, np.ones((6, 6)), "weights"), (6, -np.ones((8, 8)), "weights")):
        with pytest.raises(InvalidArgumentError) as error:
            Canvas(8, crop, weights)
        assert error.value.field == field


def test_an_empty_canvas_has_no_object():
    canvas = Canvas(8, 6)
    for ask in (canvas.object, lambda: canvas.weight, lambda: canvas.corner, canvas.check_not_collapsed):
        with pytest.raises(FailedPreconditionError, match="empty"):
            ask()


def test_patches_whose_phases_are_not_known_come_out_in_phase() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(24, 24)) + 1j * random.normal(size=(24, 24))
    positions = np.array([(x, y) for y in range(4, 20, 3) for x in range(4, 20, 3)], float)
    patches = np.stack([truth[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4] for x, y in positions])
    turned = patches * np.exp(2j * np.pi * random.random(len(patches)))[:, None, None]
    canvas = Canvas(8, 8, coherent=True)
    canvas.add(turned, positions)
    found = canvas.object()
    expected = truth[: found.shape[0], : found.shape[1]]
    assert abs(np.vdot(found, expected)) == pytest.approx(np.linalg.norm(found) * np.linalg.norm(expected), rel=1e-4)
