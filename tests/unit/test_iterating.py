"""Iterating an engine: the layout of the frames, their order, what it goes on from, and when it ends."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.iterating import Arrays, Estimate, Options, iterate, iterate_here
from tessera.tasks.ptychography.patches import MAX_SIDE
from tessera.tasks.ptychography.physics import error_of, fourier_error, illumination, model_amplitudes
from tests.fixtures.scans import SIZE, small_object, small_scan


class HalvingEngine:
    """Stands for an engine: its residuals halve with every pass, and it keeps what it was asked."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.asked: list[Arrays] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.asked.append(inputs)
        passes = sum(asked["amplitudes"].shape[1] for asked in self.asked[:-1]) // self.frames
        count = inputs["amplitudes"].shape[1]
        return {
            "new_object": inputs["object"] + 1,
            "new_probe": inputs["probe"],
            "new_corners": inputs["corners"] + 0.25,
            "residuals": np.full((1, count), 0.5**passes, np.float32),
            "powers": np.ones((1, count), np.float32),
        }


def begun(frames: int = 20, **how: Any) -> tuple[Estimate, np.ndarray]:
    scan = small_scan(frames=frames)
    assert scan.probe is not None
    return Estimate.begin(scan.positions, scan.probe, scan.amplitudes, **how), scan.amplitudes


def test_the_model_at_the_layout_of_a_scan_gives_its_frames() -> None:
    scan = small_scan(frames=20, noise=False)
    corner = (0.0, 0.0)
    estimate = Estimate.begin(scan.positions, scan.probe, scan.amplitudes, known=scan.truth, corner=corner)
    assert fourier_error(estimate.object, estimate.probe, scan.amplitudes, estimate.corners) < 1e-6
    np.testing.assert_allclose(estimate.positions, scan.positions)
    np.testing.assert_allclose(np.abs(estimate.probe), np.abs(scan.probe), rtol=1e-3)


def test_the_scale_of_a_guessed_probe_does_not_matter() -> None:
    scan = small_scan(frames=20)
    one, other = (Estimate.begin(scan.positions, scan.probe * scale, scan.amplitudes) for scale in (1, 1000))
    np.testing.assert_allclose(one.probe, other.probe, rtol=1e-4, atol=1e-4)


def test_corners_leave_the_room_that_engines_ask_for() -> None:
    estimate, _ = begun()
    rows, columns = estimate.object.shape
    assert estimate.corners.min() >= 1
    assert (estimate.corners.max(axis=0) <= (columns - SIZE - 2, rows - SIZE - 2)).all()


@pytest.mark.parametrize("corner", [(-20.0, -20.0), (7.25, 3.5), (100.0, 0.0)])
def test_what_is_known_lies_at_its_place_and_the_rest_gets_its_mean(corner: tuple[float, float]) -> None:
    known = np.full((30, 30), 2j, np.complex64)
    known[3, 5] = 4j
    weight = np.ones((30, 30), np.float32)
    weight[0, 0] = 0
    estimate, _ = begun(known=known, weight=weight, corner=corner)
    x, y = np.add(corner, (5, 3)) - estimate.origin
    assert x == round(x)
    if 0 <= x < estimate.object.shape[1] and 0 <= y < estimate.object.shape[0]:
        assert estimate.object[round(y), round(x)] == 4j
    assert np.angle(estimate.object).min() == pytest.approx(np.pi / 2)


def test_errors_are_those_of_the_beginning_and_of_every_pass() -> None:
    estimate, amplitudes = begun()
    told: list[float] = []
    errors = iterate_here(estimate, amplitudes, HalvingEngine(20), Options(iterations=3, batch=6), told=told.append)
    assert errors == told == estimate.errors == [1.0, 0.5, 0.25, 0.125]


def test_it_stops_at_the_target() -> None:
    estimate, amplitudes = begun()
    assert len(iterate_here(estimate, amplitudes, HalvingEngine(20), Options(iterations=50, target=0.25))) == 3
    assert len(iterate_here(estimate, amplitudes, HalvingEngine(20), Options(iterations=50, target=1.0))) == 1


def test_every_pass_takes_every_frame_once_in_steps_of_about_equal_size() -> None:
    estimate, amplitudes = begun(21)
    engine = HalvingEngine(21)
    iterate_here(estimate, amplitudes, engine, Options(iterations=2, batch=10))
    counts = [asked["amplitudes"].shape[1] for asked in engine.asked]
    assert counts == [7] * 9
    for first in (0, 3, 6):
        taken = np.concatenate([asked["amplitudes"][0] for asked in engine.asked[first : first + 3]])
        assert sorted(taken.sum((1, 2))) == sorted(amplitudes.sum((1, 2)))


def test_the_same_seed_takes_the_frames_in_the_same_order_and_every_pass_in_another() -> None:
    orders = []
    for seed in (1, 1, 2, -1, -(2**63), 2**63 - 1):
        estimate, amplitudes = begun()
        engine = HalvingEngine(20)
        iterate_here(estimate, amplitudes, engine, Options(iterations=2, seed=seed))
        orders.append([asked["corners"][0].sum(1).tolist() for asked in engine.asked[1:]])
    assert orders[0] == orders[1]
    assert all(orders[each] != orders[0] for each in range(2, 6))
    assert orders[0][0] != orders[0][1]


@pytest.mark.parametrize("moves", [True, False])
def test_positions_move_only_when_asked(moves: bool) -> None:
    estimate, amplitudes = begun()
    before = estimate.positions
    engine = HalvingEngine(20)
    iterate_here(estimate, amplitudes, engine, Options(iterations=2, fixed_probe=True, correct_positions=moves))
    np.testing.assert_allclose(estimate.positions - before, 0.5 if moves else 0.0, atol=1e-5)
    assert engine.asked[0]["steps"].tolist() == [[0, 0, 0]]
    assert engine.asked[1]["steps"].tolist() == [[1, 0, float(moves)]]


def test_a_large_object_is_not_converted_between_two_steps() -> None:
    estimate, amplitudes = begun()
    engine = HalvingEngine(20)
    made: list[Arrays] = []

    def compute(inputs: Arrays) -> Arrays:
        made.append(engine(inputs))
        return made[-1]

    iterate_here(estimate, amplitudes, compute, Options(iterations=1, batch=10))
    measured, (first, second) = engine.asked[:2], engine.asked[2:]
    assert measured[0]["object"] is measured[1]["object"]
    assert second["object"] is made[2]["new_object"] is not first["object"]
    assert second["probe"] is made[2]["new_probe"]


async def test_between_two_passes_the_caller_sees_the_estimate_and_may_leave() -> None:
    estimate, amplitudes = begun()
    engine = HalvingEngine(20)

    async def frames(indices: np.ndarray) -> np.ndarray:
        return amplitudes[indices]

    async def step(inputs: Arrays) -> Arrays:
        return engine(inputs)

    seen = []
    passes = iterate(estimate, frames, step, Options(iterations=1000))
    async for error in passes:
        seen.append((error, float(estimate.object.real.max())))
        if len(seen) == 3:
            break
    await passes.aclose()
    assert seen == [(1.0, 1.0), (0.5, 2.0), (0.25, 3.0)]


def test_a_probe_of_another_size_is_refused() -> None:
    scan = small_scan(frames=20)
    with pytest.raises(InvalidArgumentError, match="the probe has 32 x 32 pixels; the frames have 16 x 16") as caught:
        Estimate.begin(scan.positions, np.ones((1, 32, 32), np.complex64), scan.amplitudes)
    assert caught.value.field == "probe"


def test_positions_all_over_the_place_are_refused_before_they_cost_memory() -> None:
    scan = small_scan(frames=20)
    positions = scan.positions.copy()
    positions[3] = 1e9, 0
    with pytest.raises(InvalidArgumentError, match=f"at most {MAX_SIDE - SIZE} are possible"):
        Estimate.begin(positions, scan.probe, scan.amplitudes)


def test_a_scan_without_a_count_is_refused() -> None:
    scan = small_scan(frames=20)
    with pytest.raises(InvalidArgumentError, match="zero everywhere"):
        Estimate.begin(scan.positions, scan.probe, np.zeros_like(scan.amplitudes))


def test_numbers_that_are_too_large_are_refused_instead_of_giving_nan() -> None:
    scan = small_scan(frames=20)
    assert scan.probe is not None
    with np.errstate(all="ignore"), pytest.raises(InvalidArgumentError, match="or too large for single precision"):
        Estimate.begin(scan.positions, scan.probe * np.float32(1e25), scan.amplitudes)
    for residual, power in ((np.nan, 1.0), (np.inf, np.inf), (np.inf, 1.0)):
        with pytest.raises(InvalidArgumentError, match="are too large for single precision"):
            error_of(residual, power)


def test_a_probe_of_many_modes_takes_no_more_memory_than_one() -> None:
    random = np.random.default_rng(0)
    obj, corners = small_object(), np.ones((64, 2))
    probe = random.standard_normal((32, SIZE, SIZE, 2)).astype(np.float32).view(np.complex64)[..., 0]
    tracemalloc.start()
    try:
        found = model_amplitudes(obj, probe, corners)
        assert tracemalloc.get_traced_memory()[1] < 64 * probe.nbytes / 4
    finally:
        tracemalloc.stop()
    intensities = sum(model_amplitudes(obj, mode[None], corners) ** 2 for mode in probe)
    np.testing.assert_allclose(found**2, intensities, rtol=1e-4)


def test_patches_beyond_the_object_are_refused() -> None:
    probe = np.ones((1, SIZE, SIZE), np.complex64)
    for corner in (-0.5, 44 - SIZE):
        with pytest.raises(InvalidArgumentError, match="reach beyond 44 x 44 pixels"):
            model_amplitudes(small_object(), probe, np.array([[corner, 0.0]]))


def test_light_falls_where_the_probe_was() -> None:
    probe = np.zeros((2, 4, 4), np.complex64)
    probe[0, 1, 2], probe[1, 1, 2] = 2, 1j
    light = illumination(probe, np.array([[3.0, 5.0], [3.4, 4.6]]), (12, 10))
    assert light[6, 5] == light.sum() == 10
